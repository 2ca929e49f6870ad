from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common.telemetry import traces

OURS = SpanContext(0x123, 0x456, is_remote=False, trace_flags=TraceFlags(1))


def test_without_an_endpoint_there_is_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert traces.provider_from_environment("gateway") is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_with_an_endpoint_the_provider_speaks_for_the_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    provider = traces.provider_from_environment("gateway")
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "gateway"
    provider.shutdown()


def test_the_trace_id_is_that_of_the_current_span_or_none() -> None:
    assert traces.trace_id() is None
    with trace.use_span(NonRecordingSpan(OURS)):
        assert traces.trace_id() == f"{0x123:032x}"
