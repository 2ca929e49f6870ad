"""A collector of metrics over OTLP/HTTP that remembers what it was sent."""

from __future__ import annotations

import gzip
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class MetricsSink:
    """Plain ASGI; answers everything with an empty message, as a collector does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exports: list[ExportMetricsServiceRequest] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        with self._lock:
            self._exports.append(ExportMetricsServiceRequest.FromString(body))
        headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def metrics(self) -> list[Any]:
        """Every metric of every export so far, in protobuf."""
        with self._lock:
            return [
                metric
                for export in self._exports
                for resource in export.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            ]

    def services(self) -> set[str]:
        with self._lock:
            return {
                attribute.value.string_value
                for export in self._exports
                for resource in export.resource_metrics
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            }
