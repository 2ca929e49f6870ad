"""Spans that are lost are counted, wherever they got lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from common.telemetry import traces
from common.telemetry.span_export import QUEUE_SPANS, ExportingProvider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

BOUND_S = 10


class Exporter(SpanExporter):
    """Holds each batch until it is let go, and then says `result`, or raises it."""

    def __init__(self, result: SpanExportResult | Exception) -> None:
        self._result = result
        self.is_asked = threading.Event()
        self.may_go_on = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  # whatever they are
        self.is_asked.set()
        assert self.may_go_on.wait(BOUND_S)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


def spans(provider: ExportingProvider, count: int) -> None:
    for _ in range(count):
        provider.get_tracer("test").start_span("one").end()


def test_what_finds_the_queue_full_is_counted_and_what_a_collector_took_is_not() -> None:
    exporter = Exporter(SpanExportResult.SUCCESS)
    provider = ExportingProvider(Resource.create(), exporter)
    spans(provider, 1)
    assert exporter.is_asked.wait(BOUND_S)  # it holds the one; the queue is empty again
    spans(provider, QUEUE_SPANS)
    assert traces.dropped_spans(provider) == 0
    spans(provider, 7)
    assert traces.dropped_spans(provider) == 7

    exporter.may_go_on.set()
    provider.shutdown()
    assert traces.dropped_spans(provider) == 7


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, RuntimeError("no exporter should")])
def test_what_no_collector_took_is_counted(result: SpanExportResult | Exception) -> None:
    exporter = Exporter(result)
    exporter.may_go_on.set()
    provider = ExportingProvider(Resource.create(), exporter)
    spans(provider, 5)
    provider.shutdown()
    assert traces.dropped_spans(provider) == 5


def test_without_tracing_nothing_is_lost() -> None:
    assert traces.dropped_spans(None) == 0
