"""Reads metrics back: from the SDK's reader in memory, and from a Prometheus page."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from common import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from prometheus_client.samples import Sample

BOUND_S = 10


class Metered:
    """A meter with the buckets of the product, and what has been recorded on it."""

    def __init__(self, service: str = "test") -> None:
        self._reader = InMemoryMetricReader()
        provider = MeterProvider([self._reader], shutdown_on_exit=False, views=metrics.views())
        self.meter: Meter = provider.get_meter(service)

    def points(self, name: str) -> list[Any]:
        """The data points of the metric `name`; none when nothing was recorded."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def values(self, name: str, *attributes: str) -> dict[tuple[Any, ...], float]:
        """Its value, or for a histogram its count, by the values of `attributes`, None for one that is not there."""
        found: dict[tuple[Any, ...], float] = {}
        for point in self.points(name):
            key = tuple(point.attributes.get(attribute) for attribute in attributes)
            found[key] = found.get(key, 0) + (point.count if hasattr(point, "count") else point.value)
        return found


def scrape(url: str, headers: dict[str, str] | None = None) -> list[Sample]:
    """What a Prometheus page shows."""
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310  # ours
    with urllib.request.urlopen(request, timeout=BOUND_S) as page:  # noqa: S310  # as above
        families = text_string_to_metric_families(page.read().decode())
        return [sample for family in families for sample in family.samples]
