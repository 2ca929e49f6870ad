"""Passes requests on and does nothing else: what a hop costs before there is any logic in it.

`python bare_relay.py sockets <port> <upstream port>` is two asyncio protocols that hand bytes to each other, without
HTTP: the kernel and the event loop. `libraries` is uvicorn and aiohttp as every hop has them, around an application of
twenty lines. Neither watches, meters, limits or knows a client that left.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import uvicorn
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Side(asyncio.Protocol):
    """One of two connections; what it reads is written to the other."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._early:
            self.transport.write(self._early)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's shape
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.take(data)

    def take(self, data: bytes) -> None:
        if self.transport is None:
            self._early += data
        else:
            self.transport.write(data)


class Entrance(Side):
    """The client's side: opens the other one."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.other = exit_ = Side(self)
        loop = asyncio.get_running_loop()
        self.opening = loop.create_task(loop.create_connection(lambda: exit_, "127.0.0.1", self._upstream_port))


async def sockets(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(functools.partial(Entrance, upstream_port), "127.0.0.1", port)
    await server.serve_forever()


async def libraries(port: int, upstream_port: int) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        url = f"http://127.0.0.1:{upstream_port}"

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message["body"], message["more_body"]
            headers = {"content-type": "application/json"}
            async with session.request(scope["method"], url + scope["path"], data=body, headers=headers) as answer:
                head = [(name, value) for name, value in answer.raw_headers if name.lower() in _PASSED_ON]
                await send({"type": "http.response.start", "status": answer.status, "headers": head})
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        config = uvicorn.Config(
            app, port=port, loop="uvloop", http="httptools", ws="none", lifespan="off", access_log=False,
            log_config=None,
        )  # fmt: skip
        await uvicorn.Server(config).serve()


_PASSED_ON = (b"content-type", b"content-length")
KINDS: dict[str, Callable[[int, int], Coroutine[Any, Any, None]]] = {"sockets": sockets, "libraries": libraries}

if __name__ == "__main__":
    kind, ports = sys.argv[1], sys.argv[2:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(KINDS[kind](*map(int, ports)))
