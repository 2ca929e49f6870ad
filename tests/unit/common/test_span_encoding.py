"""Our encoder against OpenTelemetry's."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from common.telemetry.span_encoding import encoded

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def far(*state: tuple[str, str], is_remote: bool = True) -> SpanContext:
    return SpanContext(0xAB, 0xCD, is_remote, TraceFlags(1), TraceState(state))


def ours(span: Any) -> trace_pb2.Span:
    assert isinstance(span, ReadableSpan)
    spans: list[trace_pb2.Span] = [*trace_pb2.ScopeSpans.FromString(encoded(span)).spans]
    (read,) = spans
    return read


def theirs(span: Any) -> trace_pb2.Span:
    span_of_sdk: trace_pb2.Span = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0]
    return span_of_sdk


@pytest.mark.parametrize(
    "value",
    [
        "", "text", "x" * 125, "x" * 126, "x" * 127, "x" * 128, "ü" * 70, "\U0001f600", "x" * 20_000, True, False,
        0, 1, 127, 128, -1,
        2**63 - 1, -(2**63), 0.0, -0.25, float("inf"), b"", b"\xff", ["stop", "length"], [1, 2], [], [True], [0.5, "x"],
        {"a": 1, "b": {"c": ["d"]}}, None,
    ],
)  # fmt: skip
def test_an_attribute_of_any_kind_is_the_same(value: Any) -> None:
    span = TRACER.start_span("one", attributes={"key": value, "another": "value"})
    span.end()
    assert ours(span) == theirs(span)


@pytest.mark.parametrize("kind", SpanKind)
@pytest.mark.parametrize("parent", [None, far(), far(is_remote=False), far(("a", "1"), ("b", "2"))])
def test_a_span_of_any_kind_and_origin_is_the_same(kind: SpanKind, parent: SpanContext | None) -> None:
    context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
    span = TRACER.start_span("POST /v1/chat/completions", context, kind, start_time=1)
    span.end(2**63)
    assert ours(span) == theirs(span)


@pytest.mark.parametrize(
    "status", [Status(), Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "why")]
)
def test_a_status_is_the_same(status: Status) -> None:
    span = TRACER.start_span("one")
    span.set_status(status)
    span.end()
    assert ours(span) == theirs(span)


def test_events_and_links_are_the_same() -> None:
    span = TRACER.start_span("one", links=[Link(far(), {"spillway.link": "leader"})])
    span.add_link(far(is_remote=False))
    span.add_event("retry", {"reason": "timeout", "wait_s": 0.25})
    span.add_event("first_token")
    span.end()
    assert ours(span) == theirs(span)


def test_what_went_over_the_limits_is_counted_the_same() -> None:
    limits = SpanLimits(max_attributes=2, max_events=1, max_links=1, max_event_attributes=1, max_link_attributes=1)
    tracer = TracerProvider(shutdown_on_exit=False, span_limits=limits).get_tracer("test")
    many = {str(number): number for number in range(200)}
    span = tracer.start_span("one", attributes=many)
    for _ in range(3):
        span.add_link(far(), many)
        span.add_event("again", many)
    span.end()
    assert ours(span) == theirs(span)


@pytest.mark.parametrize(("value", "shown"), [(2**64, str(2**64)), ("a \ud800 half", "a ? half")])
def test_what_theirs_would_leave_out_is_there_as_a_text(value: Any, shown: str) -> None:
    span = TRACER.start_span("one", attributes={"key": value})
    span.end()
    assert ours(span).attributes[0].value.string_value == shown
