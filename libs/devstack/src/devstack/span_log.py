"""The spans of the last traces, in memory and bounded, as JSON that a test or `trace` reads."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

MAX_TRACES = 500
MAX_SPANS_PER_TRACE = 2_000
"""A runaway loop under one trace costs a few megabytes, not all memory."""


class SpanLog:
    def __init__(self, max_traces: int = MAX_TRACES, max_spans_per_trace: int = MAX_SPANS_PER_TRACE) -> None:
        self._traces: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        self._max_traces = max_traces
        self._max_spans_per_trace = max_spans_per_trace

    def add(self, export: bytes) -> None:
        """Keep the spans of an `ExportTraceServiceRequest`. Raises `google.protobuf.message.DecodeError`."""
        for resource_spans in ExportTraceServiceRequest.FromString(export).resource_spans:
            service = str(_attributes(resource_spans.resource.attributes).get("service.name", ""))
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self._keep(span, service)

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans that have arrived, by their start; none when the trace is unknown or was forgotten."""
        return sorted(self._traces.get(trace_id, ()), key=lambda span: int(span["start_ns"]))

    def recent(self) -> list[dict[str, Any]]:
        """Return the traces, the one that began last first. Without a root yet, its name, service and kind are null."""
        traces = [_summary(trace_id, spans) for trace_id, spans in self._traces.items()]
        return sorted(traces, key=lambda trace: int(trace["start_ns"]), reverse=True)

    def _keep(self, span: trace_pb2.Span, service: str) -> None:
        trace_id = span.trace_id.hex()
        spans = self._traces.setdefault(trace_id, [])
        if len(spans) < self._max_spans_per_trace:
            spans.append(_as_json(span, service))
        if len(self._traces) > self._max_traces:
            self._traces.popitem(last=False)


def _summary(trace_id: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    root = next((span for span in spans if not span["parent_id"]), None)
    start_ns = min(span["start_ns"] for span in spans)
    return {
        "trace_id": trace_id,
        "name": root["name"] if root else None,
        "service": root["service"] if root else None,
        "kind": root["kind"] if root else None,
        "start_ns": start_ns,
        "duration_ms": (max(span["end_ns"] for span in spans) - start_ns) / 1e6,
        "spans": len(spans),
    }


def _as_json(span: trace_pb2.Span, service: str) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex() or None,
        "service": service,
        "name": span.name,
        "kind": trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "status": trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        "attributes": _attributes(span.attributes),
        "events": [
            {"name": event.name, "time_ns": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
    }


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":
            return value.bytes_value.hex()
        case kind:
            return getattr(value, kind)
