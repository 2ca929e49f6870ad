"""Gets an answer from the upstream: a whole one, or a stream whose first event has been seen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import orjson
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from common import sse, wire
from common.errors import DeadlineExceeded, ServiceError
from common.event_stream import relay_chat, watched
from inference.errors import AttemptFailedError
from inference.upstream import error_in_answer, malformed, reported_error, transport_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from opentelemetry.trace import Span, Tracer

    from common.deadline import Deadline
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
    close: Callable[[ServiceError | None], Awaitable[None]]


class Answers:
    def __init__(self, router: Router, tracer: Tracer) -> None:
        self._router = router
        self._tracer = tracer

    async def whole(self, question: Question) -> WholeAnswer:
        """Raises `ServiceError`."""

        async def attempt(target: Target, number: int) -> WholeAnswer:
            with self._attempt_span(question, target, number):
                response = await self._open(question, target, question.deadline.budget_s(target.total_timeout_s))
                body = await self._read(response, target)
                if (failure := error_in_answer(body)) is not None:
                    raise failure
                return WholeAnswer(body, number)

        with self._operation(question, is_stream=False) as span:
            answer = await self._router.run(question, attempt)
        _finish(span, None, answer.attempts)
        return answer

    async def stream(self, question: Question) -> AnswerStream:
        """Return once the first event is there: until then a failure is a status, and may be retried."""
        started = time.perf_counter()

        async def attempt(
            target: Target, number: int
        ) -> tuple[Target, int, httpx2.Response, AsyncIterator[bytes], sse.ChatStream, bytes]:
            with self._attempt_span(question, target, number):
                cap_s = question.deadline.budget_s(target.first_event_timeout_s)
                try:
                    async with asyncio.timeout(cap_s):
                        response = await self._open(question, target, cap_s)
                        try:
                            return (target, number, response, *await self._first_event(response, question, target))
                        except BaseException:
                            await response.aclose()
                            raise
                except TimeoutError as error:
                    raise transport_failure(error) from error

        with self._operation(question, is_stream=True) as span:
            target, number, response, chunks, watch, first = await self._router.run(question, attempt)
        span.set_attribute("gen_ai.response.time_to_first_chunk", time.perf_counter() - started)

        async def close(error: ServiceError | None) -> None:
            await response.aclose()
            question.route.end(error)
            _finish(span, error, number)

        return AnswerStream(self._events(first, chunks, watch, target, question.deadline), number, close)

    async def _open(self, question: Question, target: Target, read_timeout_s: float) -> httpx2.Response:
        return await target.upstream.open(
            "POST" if question.body else "GET",
            question.path,
            content=orjson.dumps(target.rewritten(question.body)) if question.body else None,
            request_id=question.request_id,
            read_timeout_s=read_timeout_s,
        )

    async def _read(self, response: httpx2.Response, target: Target) -> bytes:
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > target.max_answer_bytes:
                    raise malformed()
        except httpx2.HTTPError as error:
            raise transport_failure(error) from error
        finally:
            await response.aclose()
        return bytes(body)

    async def _first_event(
        self, response: httpx2.Response, question: Question, target: Target
    ) -> tuple[AsyncIterator[bytes], sse.ChatStream, bytes]:
        if not response.headers.get("content-type", "").startswith(wire.EVENT_STREAM):
            raise error_in_answer(await self._read(response, target)) or malformed()
        watch = sse.ChatStream(question.choices)
        chunks = response.aiter_raw()
        first = b""
        try:
            async for chunk in chunks:
                first += watch.feed(chunk)
                if watch.failed:
                    raise reported_error()
                if watch.has_content:
                    return chunks, watch, first
                if watch.is_done or len(first) > sse.MAX_EVENT_BYTES:
                    break
        except httpx2.HTTPError as error:
            raise transport_failure(error) from error
        except sse.MalformedStreamError as error:
            raise malformed() from error
        raise malformed()  # it ended before it began

    async def _events(
        self, first: bytes, chunks: AsyncIterator[bytes], watch: sse.ChatStream, target: Target, deadline: Deadline
    ) -> AsyncIterator[bytes]:
        yield first
        silence_bounded = watched(chunks, gap_s=target.event_gap_timeout_s, deadline=deadline)
        async for events in relay_chat(silence_bounded, watch):
            yield events
            if deadline.remaining_s() <= 0:
                raise DeadlineExceeded("The request's deadline passed.")

    @contextlib.contextmanager
    def _operation(self, question: Question, *, is_stream: bool) -> Iterator[Span]:
        """The span of the whole operation; it ends here if the body fails, else with `_finish`."""
        span = self._tracer.start_span(
            f"{question.operation} {question.model}".rstrip(),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": question.operation,
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": question.model,
                "gen_ai.request.stream": is_stream,
            },
        )
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except ServiceError as error:
                _finish(span, error)
                raise
            except BaseException:  # the client left (not the model's error), or what nobody foresaw: it goes on its way
                span.end()
                raise

    def _attempt_span(self, question: Question, target: Target, number: int) -> _AttemptSpan:
        return _AttemptSpan(
            self._tracer.start_span(
                "attempt",
                kind=SpanKind.CLIENT,
                attributes={
                    "spillway.attempt.number": number,
                    "spillway.target": target.name,
                    "gen_ai.request.model": question.model,
                },
            )
        )


class _AttemptSpan:
    """A span for one attempt, ended with its reason: an exception's own message may quote the upstream."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._current = trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> None:
        self._current.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if isinstance(error, AttemptFailedError):
            self._span.set_attribute("error.type", error.reason)
            self._span.set_status(Status(StatusCode.ERROR))
        self._current.__exit__(None, None, None)
        self._span.end()


def _finish(span: Span, error: ServiceError | None, attempts: int | None = None) -> None:
    if attempts is not None:
        span.set_attribute("spillway.attempts", attempts)
    if error is not None and error.code != "client_gone":
        span.set_attribute("error.type", error.code or error.type)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
