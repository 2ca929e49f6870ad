"""The exporting end of tracing: a bounded queue of encoded spans, and a count of those lost in it or after it.

Ours and not the SDK's batch processor, which keeps spans as objects, encodes them in its own thread at thrice the cost
(`common.telemetry.span_encoding`), and counts what it drops only under unstable names and behind a variable.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from common.telemetry.span_encoding import encoded, sized

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 2
EXPORT_EVERY_S = 0.5
QUEUE_SPANS = 2_048
QUEUE_BYTES = 32 * 2**20
"""A span that holds content may have more than 100 KB."""
BATCH_SPANS = 512
BATCH_BYTES = 4 * 2**20
"""Collectors refuse more than 20 MiB by default."""


class Sender(Protocol):
    def send(self, payload: bytes) -> bool:
        """Whether a collector took this `ExportTraceServiceRequest`. Blocks for the export's timeout at most."""

    def shutdown(self) -> None: ...


class OtlpSender(OTLPSpanExporter):
    """The SDK's own exporter, its variables and its retries, for what is encoded already."""

    def __init__(self) -> None:
        super().__init__(timeout=EXPORT_TIMEOUT_S)

    def send(self, payload: bytes) -> bool:
        return self._client.export(payload).success


class ExportingProvider(TracerProvider):
    def __init__(self, resource: Resource, sender: Sender | None = None, *, every_s: float = EXPORT_EVERY_S) -> None:
        super().__init__(resource=resource, shutdown_on_exit=False)
        self._queue = SpanQueue(sender or OtlpSender(), every_s)
        self.add_span_processor(self._queue)

    @property
    def dropped(self) -> int:
        """Spans since the process began that found the queue full, or that no collector took."""
        return self._queue.dropped


class SpanQueue(SpanProcessor):
    """What ends is encoded at once and waits as bytes; a thread sends it, every `every_s` and whenever it is much."""

    def __init__(self, sender: Sender, every_s: float) -> None:
        self.dropped = 0
        self._sender = sender
        self._every_s = every_s
        self._heads: dict[str, tuple[bytes, bytes]] = {}
        """By the name of a tracer, what stands before its spans: of the resource, and of the scope."""
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._bytes = 0
        self._state = threading.Lock()
        self._sending = threading.Lock()
        self._wanted = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is None or span.context is None or not span.context.trace_flags.sampled:
            return
        data = encoded(span)
        if scope.name not in self._heads:
            self._heads[scope.name] = _heads(span)
        with self._state:
            count = len(self._waiting)
            if self._is_over or count >= QUEUE_SPANS or self._bytes + len(data) > QUEUE_BYTES:
                self.dropped += 1
                return
            self._waiting.append((scope.name, data))
            self._bytes += len(data)
        if count + 1 >= BATCH_SPANS:
            self._wanted.set()

    def shutdown(self) -> None:
        """Send what waits. As long as the sender takes: whoever is in a hurry does not wait for it."""
        with self._state:
            self._is_over = True
        self._wanted.set()
        self._thread.join()
        self._sender.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  # the SDK's shape; the sender is bounded
        self._send()
        return True

    def _run(self) -> None:
        while not self._is_over:
            is_much = self._wanted.wait(self._every_s)
            self._wanted.clear()
            self._send(BATCH_SPANS if is_much else 1)
        self._send()

    def _send(self, least: int = 1) -> None:
        with self._sending:
            while len(self._waiting) >= least:
                batch = self._next_batch()
                is_taken = False
                try:
                    is_taken = self._sender.send(self._payload(batch))
                except Exception as error:  # a background loop has to outlive whatever one batch does to it
                    logger.exception("spans_not_sent", extra={"error_type": type(error).__name__})
                if not is_taken:
                    with self._state:
                        self.dropped += len(batch)

    def _next_batch(self) -> list[tuple[str, bytes]]:
        batch: list[tuple[str, bytes]] = []
        size = 0
        with self._state:
            while self._waiting and len(batch) < BATCH_SPANS and size < BATCH_BYTES:
                batch.append(self._waiting.popleft())
                size += len(batch[-1][1])
            self._bytes -= size
        return batch

    def _payload(self, batch: list[tuple[str, bytes]]) -> bytes:
        """An `ExportTraceServiceRequest`: its only field is the first, as is a `ResourceSpans`' second its scopes."""
        by_tracer: dict[str, list[bytes]] = {}
        for tracer, data in batch:
            by_tracer.setdefault(tracer, []).append(data)
        payload = b""
        for tracer, spans in by_tracer.items():
            resource, scope = self._heads[tracer]
            payload += sized(b"\x0a", resource + sized(b"\x12", scope + b"".join(spans)))
        return payload


def _heads(span: ReadableSpan) -> tuple[bytes, bytes]:
    """What OpenTelemetry's own encoder puts around the spans of this one's tracer."""
    (of_resource,) = encode_spans([span]).resource_spans
    (of_scope,) = of_resource.scope_spans
    del of_scope.spans[:]
    scope = of_scope.SerializeToString()
    del of_resource.scope_spans[:]
    return of_resource.SerializeToString(), scope
