"""Sends a chat stream on: bytes through, a client that leaves cancels the work, a stream that breaks says so.

A broken stream ends with one `data: {"error": …}` event, no `[DONE]`, and an abnormal end of the body (the chunked
encoding is not terminated), because the SDKs take a clean early end for success.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx2
from starlette.responses import Response

from common import sse
from common.errors import ClientGone, DeadlineExceeded, ServiceError, UpstreamFailed
from common.wire import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send


class AlreadyToldError(UpstreamFailed):
    """The stream broke, and its error event has been passed on."""


async def relay_chat(chunks: AsyncIterator[bytes], stream: sse.ChatStream) -> AsyncIterator[bytes]:
    """Pass the whole events of an upstream's chat stream on; end well only if the answer was complete.

    Raises `UpstreamFailed` when the upstream broke off, ended early or sent what is no stream of chat events, and
    `DeadlineExceeded` when it fell silent.
    """
    try:
        async for chunk in chunks:
            if events := stream.feed(chunk):
                yield events
    except (httpx2.HTTPError, TimeoutError) as error:
        if stream.failed:
            raise AlreadyToldError("The upstream reported an error.") from error
        if isinstance(error, httpx2.TimeoutException | TimeoutError):
            raise DeadlineExceeded("The answer stalled before its end.", code="stream_stalled") from error
        raise UpstreamFailed("The answer broke off before its end.", code="stream_interrupted") from error
    except sse.MalformedStreamError as error:
        raise UpstreamFailed("The upstream sent a malformed stream.", code="stream_malformed") from error
    if stream.failed:
        raise AlreadyToldError("The upstream reported an error.")
    if not stream.is_complete:
        raise UpstreamFailed("The answer ended before it was complete.", code="stream_interrupted")
    if not stream.is_done:
        yield sse.event(b"[DONE]")


class EventStream(Response):
    """A response whose body is the events of `chunks`; `finish` is awaited once, whatever ended it.

    `chunks` yields whole events and raises `ServiceError` when the answer broke. `finish` is given the error, or None
    when the stream was sent to its end.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        finish: Callable[[ServiceError | None], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.chunks = chunks
        self._finish = finish
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache, no-transform", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's shape
        current = asyncio.current_task()
        watch = asyncio.create_task(_cancel_on_disconnect(receive, current))
        error: ServiceError | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            watch.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ServiceError as broken:
            error = broken
            if not isinstance(broken, AlreadyToldError):
                await send({"type": "http.response.body", "body": sse.event(broken.body()), "more_body": True})
            # Returning without the last body message makes the server close the connection: an abnormal end.
        except asyncio.CancelledError:
            error = ClientGone("The client closed the connection.")
            if not (watch.done() and not watch.cancelled()):
                raise  # the server is stopping, not the client leaving
            if current is not None:
                current.uncancel()
        finally:
            watch.cancel()
            try:
                with contextlib.suppress(Exception):  # closing what is broken already
                    await self._close_chunks()
            finally:
                await asyncio.shield(self._finish(error))

    async def _close_chunks(self) -> None:
        close = getattr(self.chunks, "aclose", None)
        if close is not None:
            await close()


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Task[object] | None) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if task is not None:
        task.cancel()
