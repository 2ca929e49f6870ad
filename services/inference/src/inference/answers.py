"""Gets an answer from an upstream: a whole one, or a stream whose first event has been seen."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from common import wire
from common.deadline import Deadline
from common.http_client import chunks_of
from common.streams import sse
from common.streams.event_stream import ChatRelay
from common.streams.watchdog import Watchdog
from common.telemetry import conventions
from inference import bounded, spans
from inference.batching import Share
from inference.content_capture import NO_CAPTURE, ContentCapture
from inference.errors import AttemptFailedError
from inference.metering import text_tokens
from inference.operations import Operations
from inference.upstream import REPORTED, answer_of, malformed, reported_error, transport_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    from common.errors import ServiceError
    from inference.batching import Batcher
    from inference.metering import AttemptUse
    from inference.operations import Ended, Operation
    from inference.questions import Question
    from inference.router import Router
    from inference.targets import Target


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    body: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class AnswerStream:
    """A stream under way. `events` ends well only if the answer was complete; `close` is to be awaited once."""

    events: AsyncIterator[bytes]
    attempts: int
    trailer: Callable[[], bytes]
    """What ends a stream that broke: the comment that says what it used."""
    close: Callable[[ServiceError | None], Awaitable[None]]


class Answers:
    def __init__(
        self,
        router: Router,
        batcher: Batcher,
        tracer: Tracer,
        record: Callable[[Ended], None] = lambda _: None,
        capture: ContentCapture = NO_CAPTURE,
    ) -> None:
        """`record` is told of each operation once, when it is over."""
        self._router = router
        self._batcher = batcher
        self._tracer = tracer
        self._operations = Operations(tracer, record)
        self._capture = capture

    async def whole(self, question: Question) -> WholeAnswer:
        """Raises `ServiceError`."""

        async def attempt(target: Target, number: int) -> tuple[WholeAnswer, dict[str, Any]]:
            with self._attempt(question, target) as (span, use):
                share = await self._ask(question, target, use)
                span.set_attribute(conventions.BATCH_REQUESTS, share.requests)
                use.rides_along = share.rides_along
                told = answer_of(share.body)
                use.report(told.get("usage"))
                use.estimated_output_tokens = text_tokens(told) if use.output_tokens is None else 0
                return WholeAnswer(share.body, number), told

        with self._begin(question) as operation:
            captured = self._capture.begin(question, operation.span)
            answer, told = await self._router.run(question, attempt)
        operation.describe(lambda: spans.Told.of_answer(told))
        captured.answer(told)
        operation.end(None)
        return answer

    async def stream(self, question: Question) -> AnswerStream:
        """Return once the first event is there: until then a failure is a status, and may be retried."""

        async def attempt(target: Target, number: int) -> _Opened:
            with self._attempt(question, target) as (_, use):
                return await self._open_stream(question, target, number, use)

        with self._begin(question) as operation:
            captured = self._capture.begin(question, operation.span)
            opened = await self._router.run(question, attempt)
        operation.first_chunk()

        def trailer() -> bytes:
            opened.meter()
            usage = question.meter.total()
            return usage.to_comment() if usage is not None else b""

        async def close(error: ServiceError | None) -> None:
            await opened.response.aclose()
            question.route.end(error)
            opened.meter()
            operation.describe(lambda: spans.Told.of_stream(opened.watch))
            captured.end()
            operation.end(error)

        events = captured.events(opened.events(question.deadline, trailer))
        return AnswerStream(events, opened.number, trailer, close)

    def _begin(self, question: Question) -> AbstractContextManager[Operation]:
        return self._operations.begin(question, question.model and self._router.served.named(question.model))

    @contextlib.contextmanager
    def _attempt(self, question: Question, target: Target) -> Iterator[tuple[Span, AttemptUse]]:
        use = question.meter.begin(target.name, target.price, question.route.asked_as)
        with spans.attempt(self._tracer, question) as span:
            try:
                yield span, use
            except AttemptFailedError as failed:
                # A call that timed out may be running there still; an error in place of an answer is none.
                use.was_taken_on = failed.reason == "timeout" or (use.was_taken_on and failed.reason != REPORTED)
                use.rides_along = failed.rides_along
                raise
            except asyncio.CancelledError:
                use.was_taken_on = True
                raise

    async def _ask(self, question: Question, target: Target, use: AttemptUse) -> Share:
        async def ask(body: Mapping[str, Any], deadline: Deadline) -> bytes:
            budget_s = deadline.budget_s(target.total_timeout_s)
            try:
                # Around the whole: aiohttp forgets its own timeout when a body breaks in its middle.
                async with asyncio.timeout(budget_s):
                    response = await self._open(question, target, body, budget_s)
                    use.was_taken_on = True
                    return await bounded.read(response, target.max_answer_bytes)
            except TimeoutError as error:
                raise transport_failure(error) from error

        if target.batching is None or question.operation != "embeddings":
            return Share(await ask(question.body, question.deadline), 1)
        return await self._batcher.ask(target, question.body, question.deadline, target.batching, ask)

    async def _open_stream(self, question: Question, target: Target, number: int, use: AttemptUse) -> _Opened:
        cap_s = question.deadline.budget_s(target.first_event_timeout_s)
        body = with_usage(question.body)
        watch = sse.ChatStream(
            question.choices, hides_usage=body is not question.body, max_bytes=target.max_stream_bytes
        )
        try:
            async with asyncio.timeout(cap_s):
                # No read timeout of the client's own: it would set a timer for each chunk. The watchdog has one.
                response = await self._open(question, target, body, None)
                use.was_taken_on = True
                try:
                    chunks, first = await _first_event(response, watch, target)
                except BaseException:
                    await response.aclose()
                    raise
        except TimeoutError as error:
            raise transport_failure(error) from error
        return _Opened(number, target, use, response, watch, chunks, first)

    async def _open(
        self, question: Question, target: Target, body: Mapping[str, Any], read_timeout_s: float | None
    ) -> httpx2.Response:
        return await target.upstream.open(
            "POST" if body else "GET",
            question.path,
            content=orjson.dumps(target.rewritten(body, question.route.asked_as)) if body else None,
            request_id=question.request_id,
            read_timeout_s=read_timeout_s,
        )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A stream whose first event has been seen."""

    number: int
    target: Target
    use: AttemptUse
    response: httpx2.Response
    watch: sse.ChatStream
    chunks: AsyncIterator[bytes]
    first: bytes

    def meter(self) -> None:
        self.use.report(self.watch.usage)
        self.use.estimated_output_tokens = self.watch.content_events

    def events(self, deadline: Deadline, trailer: Callable[[], bytes]) -> AsyncIterator[bytes]:
        total = Deadline.after(min(deadline.remaining_s(), self.target.total_timeout_s))
        silence = Watchdog(self.target.event_gap_timeout_s, total)
        return ChatRelay(self.chunks, self.watch, silence, first=self.first, trailer=trailer)


def with_usage(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request with its usage asked for; the very same if it asks already."""
    options = body.get("stream_options")
    options = options if isinstance(options, dict) else {}
    if options.get("include_usage") is True:
        return body
    return {**body, "stream_options": options | {"include_usage": True}}


async def _first_event(
    response: httpx2.Response, watch: sse.ChatStream, target: Target
) -> tuple[AsyncIterator[bytes], bytes]:
    if not response.headers.get("content-type", "").startswith(wire.EVENT_STREAM):
        answer_of(await bounded.read(response, target.max_answer_bytes))  # an error in place of a stream says more
        raise malformed()
    chunks = chunks_of(response)
    first = b""
    try:
        async for chunk in chunks:
            first += watch.feed(chunk)
            if watch.failed:
                raise reported_error()
            if watch.has_content:
                return chunks, first
            if watch.is_done or len(first) > sse.MAX_EVENT_BYTES:
                break
    except httpx2.HTTPError as error:
        raise transport_failure(error) from error
    except sse.MalformedStreamError as error:
        raise malformed() from error
    raise malformed()  # it ended before it began
