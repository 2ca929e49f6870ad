"""One operation: what is asked of a model, from its start to whatever ends it. Spans and metrics tell of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import trace

from common.errors import ClientGone, DeadlineExceeded, ServiceError
from common.telemetry import conventions
from inference import spans
from inference.errors import error_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Span, Tracer

    from inference.questions import Question


@dataclass(frozen=True, slots=True)
class Ended:
    """What is to be counted of an operation."""

    question: Question
    duration_s: float
    first_chunk_s: float | None
    """Of a stream that began."""
    error_type: str | None
    is_abandoned: bool
    """The caller left: neither an error nor an answer."""


class Operations:
    def __init__(
        self,
        tracer: Tracer,
        record: Callable[[Ended], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`record` is told of each operation once, when it is over."""
        self._tracer = tracer
        self._record = record
        self._clock = clock

    @contextlib.contextmanager
    def begin(self, question: Question, model: str) -> Iterator[Operation]:
        """It ends here if the body fails, else with `end`. `model` is what may be said of the one that is asked for."""
        operation = Operation(question, spans.start(self._tracer, question, model), self._record, self._clock)
        with trace.use_span(operation.span, record_exception=False, set_status_on_exception=False):
            try:
                yield operation
            except ServiceError as error:
                operation.end(error)
                raise
            except asyncio.CancelledError:
                # By the deadline, or because the caller left: whoever cancelled knows, and has no way to say.
                is_late = question.deadline.remaining_s() <= 0
                operation.end(DeadlineExceeded("") if is_late else ClientGone(""))
                raise
            except Exception as error:
                operation.end_unforeseen(error)
                raise


class Operation:
    __slots__ = ("_clock", "_first_chunk_s", "_question", "_record", "_started", "span")

    def __init__(
        self, question: Question, span: Span, record: Callable[[Ended], None], clock: Callable[[], float]
    ) -> None:
        self.span = span
        self._question = question
        self._record = record
        self._clock = clock
        self._started = clock()
        self._first_chunk_s: float | None = None

    def first_chunk(self) -> None:
        """The first event with content is there."""
        self._first_chunk_s = self._clock() - self._started
        self.span.add_event(conventions.FIRST_TOKEN)
        self.span.set_attribute(conventions.GEN_AI_TIME_TO_FIRST_CHUNK, self._first_chunk_s)

    def describe(self, told: Callable[[], spans.Told]) -> None:
        """What the answer said of itself, looked at only if anybody will see it."""
        if self.span.is_recording():
            spans.describe(self.span, told())

    def end(self, error: ServiceError | None) -> None:
        is_abandoned = error is not None and error.code == ClientGone.code
        self._end(None if error is None or is_abandoned else error_type(error), is_abandoned=is_abandoned)

    def end_unforeseen(self, error: Exception) -> None:
        self._end(type(error).__name__)

    def _end(self, failure: str | None, *, is_abandoned: bool = False) -> None:
        question, span = self._question, self.span
        if span.is_recording():
            if question.meter.attempts and (usage := question.meter.total()) is not None:
                spans.use(span, usage, question.meter.attempts[-1].details)
            span.set_attribute(conventions.ATTEMPTS, question.route.attempts)
            if failure is not None:
                spans.fail(span, failure)
        duration_s = self._clock() - self._started
        self._record(Ended(question, duration_s, self._first_chunk_s, failure, is_abandoned))
        span.end()
