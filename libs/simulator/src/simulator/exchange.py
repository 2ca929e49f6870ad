"""One request and its answer: reads, waits, writes, and notices at once when the client leaves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NoReturn

from simulator.errors import ApiError
from simulator.transport import reset, transport_of, unsent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import TypeAlias

    from simulator.attempts import Attempt
    from simulator.errors import Headers

    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
_FLUSH_POLL_S = 0.001
_MOST_FLUSH_POLLS = 5_000  # then the client reads too slowly to see what came before the reset


class ConnectionGone(Exception):
    """The connection is closed: the client left, or we closed it under the client because we were told to."""


class Exchange:
    """A pair of request and answer. `attempt`, once set, is kept up to date with what happens on the wire."""

    __slots__ = ("_gone", "_receive", "_send", "_waiter", "_watch", "attempt", "scope", "started", "transport")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.transport = transport_of(scope)
        self.attempt: Attempt | None = None
        self.started = False
        self._receive = receive
        self._send = send
        self._gone = False
        self._watch: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- the request ---------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> bytes | None:
        return next((value for field, value in self.scope["headers"] if field == name), None)

    async def body(self, limit: int) -> bytes:
        """The whole request body, at most `limit` bytes of it. Raises `ApiError` (413) and `ConnectionGone`."""
        message = await self._receive()
        parts: list[bytes] = []
        size = 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise ApiError(
                    f"The request body is larger than {limit} bytes.",
                    status=413,
                    code="request_too_large",
                    headers=[(b"connection", b"close")],
                )
            if not message.get("more_body", False):
                return b"".join([*parts, part]) if parts else part
            parts.append(part)
            message = await self._receive()
        raise ConnectionGone

    # -- time ----------------------------------------------------------------------------------------------------

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past the client's leaving. Raises `ConnectionGone`."""
        if seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(seconds, _wake, waiter)
        await self._wait(waiter)
        timer.cancel()

    async def silence(self) -> NoReturn:
        """Wait for the client to leave, however long it takes, and raise `ConnectionGone` then."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        await self._wait(waiter)
        raise ConnectionGone

    async def _wait(self, waiter: asyncio.Future[None]) -> None:
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_for_disconnect())
        if not self._gone:
            await waiter
        if self._gone:
            raise ConnectionGone

    async def _watch_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._waiter is not None:
            _wake(self._waiter)

    # -- the answer ----------------------------------------------------------------------------------------------

    async def answer(
        self, status: int, body: bytes, headers: Headers | None = None, *, content_type: bytes = JSON
    ) -> None:
        """A whole answer at once."""
        await self.start(status, [(b"content-length", b"%d" % len(body)), *(headers or [])], content_type=content_type)
        await self._send({"type": "http.response.body", "body": body})
        self.finished()

    async def start(self, status: int, headers: Headers, *, content_type: bytes = JSON) -> None:
        """The status line and headers. Without a `content-length` among them the body is chunked."""
        self._stop_if_left()
        self.started = True
        if self.attempt is not None:
            self.attempt.status = status
            self.attempt.first_byte = time.monotonic()
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type), *headers]}
        )

    async def write(self, data: bytes, chunks: int = 0) -> None:
        """A part of the body that holds so many chunks."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._stop_if_left()
        if self.attempt is not None:
            self.attempt.chunks += chunks

    async def end(self) -> None:
        """End the body as HTTP wants it."""
        # The empty write waits until the client has read enough: a client that left instead is noticed here.
        await self.write(b"")
        await self._send({"type": "http.response.body"})
        self.finished()

    async def close(self, *, abruptly: bool) -> NoReturn:
        """End the connection under the answer: FIN, or RST if `abruptly`, once all that was written is on its way.

        Raises `ConnectionGone` when it is done.
        """
        if self.transport is None:
            raise RuntimeError("the transport is out of reach")
        if abruptly:
            for _ in range(_MOST_FLUSH_POLLS):
                await self.pause(_FLUSH_POLL_S)  # at least one: uvloop writes, and counts what waits, after this turn
                if not unsent(self.transport):
                    break
            reset(self.transport)
        else:
            self.transport.close()
        self.finished()
        while (await self._receive())["type"] != "http.disconnect":  # else uvicorn reports an app that forgot to answer
            pass
        raise ConnectionGone

    def note_fault(self, fault: str | None) -> None:
        if self.attempt is not None:
            self.attempt.fault = fault

    def finished(self) -> None:
        if self.attempt is not None:
            self.attempt.finished = time.monotonic()

    def release(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.cancel()

    def _stop_if_left(self) -> None:
        if self._gone or (self.transport is not None and self.transport.is_closing()):
            raise ConnectionGone


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
