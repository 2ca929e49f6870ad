"""What hops tell each other of a trace, held against OpenTelemetry's own reader and writer."""

from __future__ import annotations

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.telemetry import trace_context
from support.spans import CALLER, SPAN

W3C = TraceContextTextMapPropagator()


@pytest.mark.parametrize(
    "shown",
    [
        f"00-{CALLER}-{SPAN}-00", f"00-{CALLER}-{SPAN}-01", f"00-{CALLER}-{SPAN}-02", f" 00-{CALLER}-{SPAN}-03\t",
        f"cc-{CALLER}-{SPAN}-01", f"cc-{CALLER}-{SPAN}-01-what.comes.later",
        "", "nonsense", f"00-{CALLER}-{SPAN}", f"00-{CALLER}-{SPAN}-01-", f"00-{CALLER}-{SPAN}-1",
        f"ff-{CALLER}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{CALLER}-{'0' * 16}-01", f"00-{CALLER.upper()}-{SPAN}-01",
    ],
)  # fmt: skip
def test_it_reads_what_opentelemetry_reads(shown: str) -> None:
    theirs = trace.get_current_span(W3C.extract({"traceparent": shown}, otel_context.Context())).get_span_context()
    assert trace_context.parsed(shown) == (theirs if theirs.is_valid else None)


def test_a_state_goes_along() -> None:
    told = trace_context.parsed(f"00-{CALLER}-{SPAN}-01", ["a=1,b=2"])
    assert told is not None
    assert told.trace_state.to_header() == "a=1,b=2"


def test_flags_of_later_versions_are_not_passed_on() -> None:
    told = trace_context.parsed(f"cc-{CALLER}-{SPAN}-ff")
    assert told is not None
    assert told.trace_flags == TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_it_writes_what_opentelemetry_writes(flags: int) -> None:
    span = NonRecordingSpan(SpanContext(int(CALLER, 16), 0x7, is_remote=False, trace_flags=TraceFlags(flags)))
    carrier: dict[str, str] = {}
    with trace.use_span(span):
        W3C.inject(carrier)
        assert carrier == {trace_context.HEADER: trace_context.traceparent()}


def test_outside_of_any_trace_there_is_nothing_to_tell() -> None:
    assert trace_context.traceparent() == ""
