"""The exporting end of tracing: a bounded queue, and a count of the spans that were lost in it or after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.resources import Resource

EXPORT_TIMEOUT_S = 2
QUEUE_SPANS = 2_048


class ExportingProvider(TracerProvider):
    """The SDK counts the spans that it drops only under unstable names and behind a variable; this one always does."""

    def __init__(self, resource: Resource, exporter: SpanExporter | None = None) -> None:
        super().__init__(resource=resource, shutdown_on_exit=False)
        self._exporter = _CountingExporter(exporter or OTLPSpanExporter(timeout=EXPORT_TIMEOUT_S))
        self._queue = _CountingProcessor(self._exporter)
        self.add_span_processor(self._queue)

    @property
    def dropped(self) -> int:
        """Spans since the process began that found the queue full, or that no collector took."""
        return self._queue.dropped + self._exporter.dropped


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.taken = 0
        self.dropped = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.dropped += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _CountingProcessor(BatchSpanProcessor):
    """Knows how many spans wait: those that ended, but for those that were taken or dropped."""

    def __init__(self, exporter: _CountingExporter) -> None:
        super().__init__(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=500, max_export_batch_size=512)
        self._exporting = exporter
        self._ended = 0
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._ended += 1
            if self._ended - self._exporting.taken - self.dropped > QUEUE_SPANS:
                self.dropped += 1
        super().on_end(span)
