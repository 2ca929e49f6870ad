from __future__ import annotations

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common import telemetry
from common.telemetry import EdgePropagator

CALLER = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01", "baggage": "secret=1"}
OURS = SpanContext(0x123, 0x456, is_remote=False, trace_flags=TraceFlags(1))


def test_at_the_edge_a_callers_trace_is_never_the_parent() -> None:
    extracted = EdgePropagator().extract(CALLER, otel_context.Context())
    assert not trace.get_current_span(extracted).get_span_context().is_valid
    assert extracted == otel_context.Context()


def test_at_the_edge_the_current_context_is_kept_when_none_is_given() -> None:
    with trace.use_span(NonRecordingSpan(OURS)):
        assert trace.get_current_span(EdgePropagator().extract(CALLER)).get_span_context() == OURS


def test_at_the_edge_our_own_hops_are_told_of_our_trace() -> None:
    carrier: dict[str, str] = {}
    EdgePropagator().inject(carrier, trace.set_span_in_context(NonRecordingSpan(OURS), otel_context.Context()))
    assert carrier["traceparent"].startswith(f"00-{0x123:032x}-{0x456:016x}-")
    assert set(carrier) <= EdgePropagator().fields


def test_without_an_endpoint_there_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert telemetry.provider_from_environment("gateway") is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_with_an_endpoint_the_provider_speaks_for_the_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    provider = telemetry.provider_from_environment("gateway")
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "gateway"
    provider.shutdown()


def test_the_trace_id_is_that_of_the_current_span_or_none() -> None:
    assert telemetry.trace_id() is None
    with trace.use_span(NonRecordingSpan(OURS)):
        assert telemetry.trace_id() == f"{0x123:032x}"
