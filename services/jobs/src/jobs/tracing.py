"""Spans of a job. It runs in the trace of its submission, so that one look shows all of it; each attempt's span has the
submission's as its parent and, because it did not happen within that, as a link too.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode

from common.telemetry import conventions, trace_context
from jobs.replay import AttemptFailed, Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span, TracerProvider

    from jobs.record import Claim


class AttemptSpan:
    def __init__(self, span: Span) -> None:
        self._span = span

    def note(self, outcome: Outcome) -> None:
        self._span.set_attribute(conventions.JOB_OUTCOME, type(outcome).__name__.lower())
        if isinstance(outcome, Failed | AttemptFailed):
            self._span.set_attribute(conventions.ERROR_TYPE, outcome.code)
            self._span.set_status(Status(StatusCode.ERROR))


class Tracing:
    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.NoOpTracer() if provider is None else provider.get_tracer("jobs")

    @contextlib.contextmanager
    def attempt(self, claim: Claim) -> Iterator[AttemptSpan]:
        """A span for the time that the job waited, and one around its attempt."""
        caller, submission = trace_context.parsed(claim.record.traceparent), otel_context.Context()
        links = []
        if caller is not None:
            submission = trace.set_span_in_context(NonRecordingSpan(caller), submission)
            links = [Link(caller, {conventions.LINK: "submission"})]
        attributes: dict[str, str | int] = {
            conventions.JOB_ID: claim.id,
            conventions.TENANT: claim.record.tenant,
            conventions.JOB_ATTEMPT_NUMBER: claim.record.attempts,
        }
        now = time.time_ns()
        waited_since = now - int(claim.waited_s * 1e9)
        wait = self._tracer.start_span(conventions.JOB_WAIT, submission, start_time=waited_since, attributes=attributes)
        wait.end(now)
        with self._tracer.start_as_current_span(
            conventions.JOB_ATTEMPT,
            submission,
            SpanKind.CONSUMER,
            attributes,
            links,
            start_time=now,
            record_exception=False,
        ) as span:
            yield AttemptSpan(span)
