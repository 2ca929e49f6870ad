"""Sends a chat stream on: bytes through, a client that leaves cancels the work, a stream that breaks says so.

A broken stream ends with one `data: {"error": …}` event, no `[DONE]`, and an abnormal end of the body (the chunked
encoding is not terminated), because the SDKs take a clean early end for success.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import httpx2
from starlette.responses import Response

from common.errors import ClientGone, DeadlineExceeded, ServiceError, Unavailable, UpstreamFailed
from common.streams import sse
from common.streams.watchdog import Watchdog
from common.telemetry.traces import note_error
from common.wire import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from common.deadline import Deadline


CLIENT_STALLED = "client_stalled"
SEND_BLOCKED_S = 30
"""A client that reads nothing for so long is dropped: it holds an upstream call."""
END_GRACE_S = 0.5
"""What an upstream gets to end its connection normally after a complete answer."""
SEND_LAST_S = 1
"""What a client gets to take the error event with which its stream ends."""


class AlreadyToldError(UpstreamFailed):
    """The stream broke, and the client has been told, or cannot be."""


class ChatRelay:
    """Passes the whole events of an upstream's chat stream on; ends well only if the answer was complete.

    `first` are events that `stream` has seen already. `silence` bounds the time between two events with content:
    comments do not count. What `trailer` makes goes right before `[DONE]`, because readers stop there.

    Raises `UpstreamFailed` when the upstream broke off, ended early or sent what is no stream of chat events,
    `DeadlineExceeded` when it fell silent or the deadline of `silence` passed. No generator: what one yields travels as
    an exception.
    """

    __slots__ = ("_chunks", "_content", "_first", "_has_ended", "_is_told", "_silence", "_stream", "_trailer")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        stream: sse.ChatStream,
        silence: Watchdog,
        *,
        first: bytes = b"",
        trailer: Callable[[], bytes] = bytes,
    ) -> None:
        self._chunks = chunks
        self._stream = stream
        self._silence = silence
        self._first = first
        self._trailer = trailer
        self._content = 0
        self._has_ended = stream.is_done
        self._is_told = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        stream, silence = self._stream, self._silence
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            while not self._has_ended:
                if stream.content_events != self._content:
                    self._content = stream.content_events
                    silence.heard()
                    if silence.is_past_deadline:
                        raise TimeoutError  # noqa: TRY301  # as the wait would
                with silence:
                    chunk = await self._chunks.__anext__()
                events = stream.feed(chunk)
                self._has_ended = stream.is_done
                if events:
                    return events
        except StopAsyncIteration:
            self._has_ended = True
        except (httpx2.HTTPError, TimeoutError, sse.MalformedStreamError) as error:
            raise _as_service_error(error, stream, silence) from error
        return await self._end()

    async def _end(self) -> bytes:
        self._silence.close()
        if self._is_told:
            # The answer is whole, however its connection ends; a normal end lets the connection be used again.
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(END_GRACE_S):
                    async for _ in self._chunks:
                        pass
            raise StopAsyncIteration
        if self._stream.failed:
            raise AlreadyToldError("The upstream reported an error.")
        if not self._stream.is_complete:
            raise UpstreamFailed("The answer ended before it was complete.", code="stream_interrupted")
        self._is_told = True
        return self._trailer() + sse.DONE

    async def aclose(self) -> None:
        self._silence.close()


def _as_service_error(error: Exception, stream: sse.ChatStream, silence: Watchdog) -> ServiceError:
    if isinstance(error, sse.StreamTooLargeError):
        return UpstreamFailed("The upstream's answer is too large.", code="stream_too_large")
    if isinstance(error, sse.MalformedStreamError):
        return UpstreamFailed("The upstream sent a malformed stream.", code="stream_malformed")
    if stream.failed:
        return AlreadyToldError("The upstream reported an error.")
    if silence.is_past_deadline:
        return DeadlineExceeded("The request's deadline passed.")
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return DeadlineExceeded("The answer stalled before its end.", code="stream_stalled")
    return UpstreamFailed("The answer broke off before its end.", code="stream_interrupted")


class EventStream(Response):
    """A response whose body is the events of `chunks`; `finish` is awaited once, whatever ended it.

    `chunks` yields whole events and raises `ServiceError` when the answer broke. `finish` is given the error, or None
    when the stream was sent to its end. `trailer` makes what is sent last of a stream that broke, the error event
    included; of one that ends well `chunks` sends it. `deadline` bounds how long a client may read nothing, as 30 s do.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        finish: Callable[[ServiceError | None], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
        trailer: Callable[[], bytes] = bytes,
        deadline: Deadline | None = None,
    ) -> None:
        self.chunks = chunks
        self._finish = finish
        self._trailer = trailer
        self._deadline = deadline
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache, no-transform", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(scope, send))
        watch = asyncio.create_task(_cancel_on_disconnect(receive, sending))
        error: ServiceError | None = ServiceError("The stream ended for a reason that nobody foresaw.")
        try:
            error = await sending
            if error is None:
                watch.cancel()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            # Else: to return without the last body message makes the server close the connection, an abnormal end.
        except asyncio.CancelledError:
            if not (watch.done() and not watch.cancelled()):
                error = Unavailable("The service is stopping.", code="draining")
                raise
            error = ClientGone("The client closed the connection.")
        finally:
            watch.cancel()
            if error is not None and not isinstance(error, ClientGone) and error.code != CLIENT_STALLED:
                note_error(error.own_code, is_broken=True)
            try:
                with contextlib.suppress(Exception):  # closing what is broken already
                    await self._close_chunks()
            finally:
                await asyncio.shield(self._finish(error))

    async def _send_all(self, scope: Scope, send: Send) -> ServiceError | None:
        """In a task of its own: there a chunk wakes a handful of coroutines, not the thirty of the application."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # What stands between looks at the start alone; past it a chunk has four coroutines less to go through.
        return await self._send_events(scope.get("state", {}).get("send", send))

    async def _send_events(self, send: Send) -> ServiceError | None:
        """Send every event; return what broke the stream, the client having been told if it still reads."""
        blocked = Watchdog(SEND_BLOCKED_S, self._deadline)
        try:
            async for chunk in self.chunks:
                blocked.heard()
                with blocked:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:  # of `blocked`: those of `chunks` are service errors
            return AlreadyToldError("The client stopped reading.", code=CLIENT_STALLED)
        except ServiceError as broken:
            told = b"" if isinstance(broken, AlreadyToldError) else sse.event(broken.body())
            if last := told + self._trailer():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SEND_LAST_S):
                        await send({"type": "http.response.body", "body": last, "more_body": True})
            return broken
        finally:
            blocked.close()
        return None

    async def _close_chunks(self) -> None:
        close = getattr(self.chunks, "aclose", None)
        if close is not None:
            await close()


async def _cancel_on_disconnect(receive: Receive, sending: asyncio.Task[object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    sending.cancel()
