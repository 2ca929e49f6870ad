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

from common.errors import ClientGone, DeadlineExceeded, ServiceError, Unavailable, UpstreamFailed
from common.streams import sse
from common.streams.watchdog import Watchdog
from common.telemetry.traces import note_error
from common.wire import EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

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


async def relay_chat(
    chunks: AsyncIterator[bytes],
    stream: sse.ChatStream,
    silence: Watchdog | None = None,
    *,
    first: bytes = b"",
    trailer: Callable[[], bytes] = bytes,
) -> AsyncIterator[bytes]:
    """Pass the whole events of an upstream's chat stream on; end well only if the answer was complete.

    `first` are events that `stream` has seen already. `silence` bounds the time between two events with content:
    comments do not count. What `trailer` makes goes right before `[DONE]`, because readers stop there.

    Raises `UpstreamFailed` when the upstream broke off, ended early or sent what is no stream of chat events,
    `DeadlineExceeded` when it fell silent or the deadline of `silence` passed.
    """
    waiting: AbstractContextManager[object] = silence or contextlib.nullcontext()
    try:
        with _as_service_errors(stream, silence):
            content = 0
            if first:
                yield first
                content = _heard(silence, stream, content)
            ended = stream.is_done
            while not ended:
                with waiting:
                    chunk = await anext(chunks, None)
                if chunk is not None and (events := stream.feed(chunk)):
                    yield events
                content = _heard(silence, stream, content)
                ended = chunk is None or stream.is_done
    finally:
        if silence is not None:
            silence.close()
    if stream.failed:
        raise AlreadyToldError("The upstream reported an error.")
    if not stream.is_complete:
        raise UpstreamFailed("The answer ended before it was complete.", code="stream_interrupted")
    yield trailer() + sse.DONE
    # The answer is whole, however its connection ends; a normal end lets the connection be used again.
    with contextlib.suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(END_GRACE_S):
            async for _ in chunks:
                pass


def _heard(silence: Watchdog | None, stream: sse.ChatStream, content: int) -> int:
    """Tell `silence` if there is more content than that, and return how much there is."""
    if silence is not None and stream.content_events != content:
        silence.heard()
        if silence.is_past_deadline:
            raise TimeoutError
    return stream.content_events


@contextlib.contextmanager
def _as_service_errors(stream: sse.ChatStream, silence: Watchdog | None) -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, TimeoutError) as error:
        if stream.failed:
            raise AlreadyToldError("The upstream reported an error.") from error
        if silence is not None and silence.is_past_deadline:
            raise DeadlineExceeded("The request's deadline passed.") from error
        if isinstance(error, httpx2.TimeoutException | TimeoutError):
            raise DeadlineExceeded("The answer stalled before its end.", code="stream_stalled") from error
        raise UpstreamFailed("The answer broke off before its end.", code="stream_interrupted") from error
    except sse.StreamTooLargeError as error:
        raise UpstreamFailed("The upstream's answer is too large.", code="stream_too_large") from error
    except sse.MalformedStreamError as error:
        raise UpstreamFailed("The upstream sent a malformed stream.", code="stream_malformed") from error


async def watched(chunks: AsyncIterator[bytes], *, gap_s: float, deadline: Deadline) -> AsyncIterator[bytes]:
    """The same chunks, with a bound on the silence between two of them, and on the whole. Raises `TimeoutError`."""
    silence = Watchdog(gap_s, deadline)
    try:
        while True:
            with silence:
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
            silence.heard()
    finally:
        silence.close()


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
