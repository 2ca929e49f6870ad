"""Exemplars on the Prometheus page: beside each bucket of a latency, a trace that it was measured in.

The exporter drops them. What it makes is left as it is and they are put beside it, in the OpenMetrics format that
Prometheus asks for by itself; the plain one has no place for them. Source: OpenMetrics 1.0, "Exemplars".
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import Histogram
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Exemplar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData
    from prometheus_client import Metric as Family
    from prometheus_client.samples import Sample

    Key = tuple[str, frozenset[tuple[str, str]]]

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


class ExemplarRegistry(CollectorRegistry):
    """Adds to each bucket the exemplar that was seen for it since the last look."""

    def __init__(self) -> None:
        super().__init__()
        self.exemplars: dict[Key, Exemplar] = {}

    def collect(self) -> Iterator[Family]:
        for family in super().collect():
            if family.type == "histogram":
                family.samples = [self._with_exemplar(sample) for sample in family.samples]
            yield family

    def _with_exemplar(self, sample: Sample) -> Sample:
        exemplar = self.exemplars.get((sample.name, _told(sample.labels)))
        return sample if exemplar is None else sample._replace(exemplar=exemplar)


class ExemplarReader(PrometheusMetricReader):
    """The exporter's reader, which hands the exemplars of what it reads to the registry."""

    def __init__(self, registry: ExemplarRegistry) -> None:
        # The scrape configuration names the job, and one process has one scope: both would repeat on every line.
        super().__init__(disable_target_info=True, scope_info_enabled=False, registry=registry)
        self._exemplars = registry

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(metrics_data, timeout_millis, **kwargs)
        self._exemplars.exemplars = dict(_found(metrics_data))


def _found(data: MetricsData | None) -> Iterator[tuple[Key, Exemplar]]:
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if isinstance(metric.data, Histogram):
                    for point in metric.data.data_points:
                        yield from _of_point(metric, point)


def _of_point(metric: Metric, point: HistogramDataPoint) -> Iterator[tuple[Key, Exemplar]]:
    name = metric.name.replace(".", "_") + _SUFFIXES.get(metric.unit or "", "") + "_bucket"
    labels = {key.replace(".", "_"): str(value) for key, value in (point.attributes or {}).items()}
    bounds = [*(str(bound) for bound in point.explicit_bounds), "+Inf"]
    for exemplar in point.exemplars:
        if exemplar.trace_id and exemplar.span_id:
            upper = bounds[bisect_left(point.explicit_bounds, exemplar.value)]
            ids = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
            seen = Exemplar(ids, exemplar.value, exemplar.time_unix_nano / 1e9)
            yield (name, _told(labels | {"le": upper})), seen


def _told(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    """Without those that are empty, which the exporter adds to make all rows of a family alike."""
    return frozenset((name, value) for name, value in labels.items() if value)
