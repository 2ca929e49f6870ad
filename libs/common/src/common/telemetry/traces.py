"""Traces over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, nothing at all otherwise.

The SDK's own variables (`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, …) mean what they always mean.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from opentelemetry import trace

from common.telemetry import conventions

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider


def provider_from_environment(service: str) -> TracerProvider | None:
    """Build the exporting provider, or None when no endpoint is configured. Nothing is imported that is not used.

    The queue is bounded and drops when full: a collector that is gone, slow or silent costs callers nothing.
    """
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415  # costs memory

    from common.telemetry.span_export import ExportingProvider  # noqa: PLC0415  # as above

    return ExportingProvider(Resource.create({SERVICE_NAME: service}))


def dropped_spans(provider: TracerProvider | None) -> int:
    """How many spans `provider` has lost; 0 for one that is not ours."""
    return getattr(provider, "dropped", 0)


def shut_down(provider: TracerProvider | MeterProvider | None, timeout_s: float) -> None:
    """Let the last spans or metrics leave, for at most `timeout_s`: a silent collector holds up no process."""
    if provider is not None:
        leaving = threading.Thread(target=provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(timeout_s)


def note_error(code: str | None, *, is_broken: bool = False) -> None:
    """Say on the current span with which error of ours the request was answered; `is_broken`: after it had begun well.

    A 5xx is marked as failed by whoever made the server span; an answer that broke off has a status of 200.
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(conventions.ERROR_CODE, code or "")
        if is_broken:
            span.set_attribute(conventions.ERROR_TYPE, code or "")
            span.set_status(trace.Status(trace.StatusCode.ERROR))


def note_request(request_id: str) -> None:
    """Name the request on the current span."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(conventions.REQUEST_ID, request_id)


def is_sampled() -> bool:
    """Whether what is done now belongs to a recorded trace. Its span may be over: work may outlive its request."""
    return trace.get_current_span().get_span_context().trace_flags.sampled


def unrecorded_span() -> trace.Span | None:
    """The current span if it belongs to a trace that nobody records: what is done in it needs no span of its own."""
    span = trace.get_current_span()
    context = span.get_span_context()
    return span if context.is_valid and not context.trace_flags.sampled else None


def trace_id() -> str | None:
    """The current trace's id in hex, or None when tracing is off."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
