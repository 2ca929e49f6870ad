"""The instruments of one service, read as a scrape would read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from common.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.metrics import Meter


class Instruments:
    """Hand `meter` to a service, then ask what its instruments say."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False, views=metrics.views())
        self.meter: Meter = self._provider.get_meter("tests")

    def points(self, name: str, attributes: Mapping[str, object] | None = None) -> list[Any]:
        """The data points of the instrument that have these attributes among theirs."""
        return [
            point
            for found, point in self._all()
            if found == name and (attributes or {}).items() <= point.attributes.items()
        ]

    def value(self, name: str, attributes: Mapping[str, object] | None = None) -> float:
        """The sum of these points; of a histogram, how many were recorded."""
        return sum(
            point.count if isinstance(point, HistogramDataPoint) else point.value
            for point in self.points(name, attributes)
        )

    def values(self, name: str, *attributes: str) -> dict[tuple[Any, ...], float]:
        """The values, or of a histogram the counts, by these attributes; None stands for one that is not there."""
        found: dict[tuple[Any, ...], float] = {}
        for point in self.points(name):
            key = tuple(point.attributes.get(attribute) for attribute in attributes)
            value = point.count if isinstance(point, HistogramDataPoint) else point.value
            found[key] = found.get(key, 0) + value
        return found

    def total(self, name: str, attributes: Mapping[str, object] | None = None) -> float:
        """The sum of all that a histogram recorded."""
        return sum(float(point.sum) for point in self.points(name, attributes))

    def by(self, name: str, attribute: str) -> dict[object, float]:
        """The values by one attribute, those that are 0 left out."""
        found: dict[object, float] = {}
        for point in self.points(name):
            value = point.count if isinstance(point, HistogramDataPoint) else point.value
            if value:
                key = point.attributes.get(attribute)
                found[key] = found.get(key, 0) + value
        return found

    def series(self) -> set[tuple[str, frozenset[tuple[str, object]]]]:
        """Every name with every set of attributes."""
        return {(name, frozenset(point.attributes.items())) for name, point in self._all()}

    def _all(self) -> Iterator[tuple[str, Any]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, point
