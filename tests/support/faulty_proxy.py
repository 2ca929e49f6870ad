"""A TCP proxy in front of a service that does to it what networks and broken services do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from common.background import end

if TYPE_CHECKING:
    from collections.abc import Iterator

Fault = Literal["none", "dead", "frozen", "slow", "500", "garbage", "truncated"]
FAULTS: tuple[Fault, ...] = ("dead", "frozen", "slow", "500", "garbage", "truncated")
SLOW_S = 2.0
_BOUND_S = 10
_CANNED = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
    "truncated": b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"held": tr',
}


class FaultyProxy:
    """`fault` may be changed at any moment; it holds for open connections too."""

    def __init__(self, target: str) -> None:
        url = urlsplit(target)
        self._target = (url.hostname, url.port)
        self._connections: set[asyncio.Task[None]] = set()
        self.fault: Fault = "none"
        self.requests = 0
        """Chunks of requests that came in, roughly the number of requests."""
        self.url = ""

    async def serve(self, started: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopping.wait()
        server.close()
        await end(*self._connections)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.ExitStack() as closing:
            closing.callback(self._connections.discard, task)
            closing.callback(writer.close)
            # Cancelled when the proxy stops; asyncio would log that as an error (Python 3.11).
            with contextlib.suppress(OSError, asyncio.CancelledError):
                back, upstream = await asyncio.open_connection(*self._target)
                closing.callback(upstream.close)
                closing.callback(asyncio.create_task(self._answers(back, writer)).cancel)
                await self._questions(reader, writer, upstream)

    async def _questions(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            self.requests += 1
            match self.fault:
                case "none":
                    upstream.write(data)
                case "slow":
                    await asyncio.sleep(SLOW_S)
                    upstream.write(data)
                case "dead":
                    return
                case "500":
                    writer.write(_CANNED["500"])
                case "garbage":
                    writer.write(os.urandom(200))
                case "truncated":
                    writer.write(_CANNED["truncated"])
                    await writer.drain()
                    return
                case "frozen":
                    pass

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await back.read(65_536):
                if self.fault in ("none", "slow"):
                    writer.write(data)
            writer.close()


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)), name="faulty-proxy")
    thread.start()
    assert started.wait(_BOUND_S)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(_BOUND_S)
