"""A TCP proxy in front of a service that does to it what networks and broken services do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

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
        self.fault: Fault = "none"
        self.requests = 0
        """Chunks of requests that came in, roughly the number of requests."""
        self.url = ""

    async def serve(self, stopping: asyncio.Event, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stopping.wait()
        server.close()

    async def _connection(  # noqa: C901  # one case a fault
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            back, upstream = await asyncio.open_connection(*self._target)
            answering = asyncio.create_task(self._answers(back, writer))
            while data := await reader.read(65_536):
                self.requests += 1
                match self.fault:
                    case "none":
                        upstream.write(data)
                    case "slow":
                        await asyncio.sleep(SLOW_S)
                        upstream.write(data)
                    case "dead":
                        break
                    case "500":
                        writer.write(_CANNED["500"])
                    case "garbage":
                        writer.write(os.urandom(200))
                    case "truncated":
                        writer.write(_CANNED["truncated"])
                        await writer.drain()
                        break
                    case "frozen":
                        pass
            answering.cancel()
        for stream in (writer, upstream):
            if stream is not None:
                stream.close()

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
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run() -> None:
        loop.run_until_complete(proxy.serve(stopping, started))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run, name="faulty-proxy")
    thread.start()
    started.wait(_BOUND_S)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(_BOUND_S)
