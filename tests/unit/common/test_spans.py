from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from common.telemetry.spans import UNTRACED, Spans, StoreSpans

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider(shutdown_on_exit=False)
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
TRACER = PROVIDER.get_tracer("test")


@pytest.fixture(autouse=True)
def forgotten() -> None:
    EXPORTER.clear()


def below_a_request() -> ReadableSpan:
    span, request = EXPORTER.get_finished_spans()
    assert span.parent == request.get_span_context()
    return span


def test_an_operation_on_a_store_is_a_span_below_its_request() -> None:
    with TRACER.start_as_current_span("request"), StoreSpans("limits", PROVIDER).operation("admit"):
        pass
    span = below_a_request()
    assert (span.name, span.kind, span.status.status_code) == ("admit limits", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "db.system.name": "redis", "db.operation.name": "admit", "spillway.store": "limits",
    }  # fmt: skip


def test_what_fails_is_an_error_by_its_name_and_not_in_its_words() -> None:
    with (
        pytest.raises(ValueError, match="a prompt"),
        TRACER.start_as_current_span("request", record_exception=False),
        StoreSpans("state", PROVIDER).operation("claim"),
    ):
        raise ValueError("a prompt")
    span = EXPORTER.get_finished_spans()[0]
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert "prompt" not in str(span.to_json())


def test_a_caller_that_left_is_no_error() -> None:
    with (
        pytest.raises(asyncio.CancelledError),
        TRACER.start_as_current_span("request"),
        Spans(PROVIDER).around("admission wait"),
    ):
        raise asyncio.CancelledError
    span = EXPORTER.get_finished_spans()[0]
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.UNSET, "cancelled")


@pytest.mark.parametrize("spans", [UNTRACED, StoreSpans("state", PROVIDER)], ids=["no provider", "no request"])
def test_outside_of_a_request_or_without_tracing_there_is_no_span(spans: StoreSpans) -> None:
    with spans.operation("reap"):
        pass
    assert EXPORTER.get_finished_spans() == ()


def test_in_an_unsampled_trace_there_is_no_span() -> None:
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test")
    with unsampled.start_as_current_span("request"), StoreSpans("state", PROVIDER).operation("claim"):
        pass
    assert EXPORTER.get_finished_spans() == ()
