"""Metrics: off unless somebody takes them, on a Prometheus page of a port of its own, over OTLP/HTTP, or both.

The page is there when `<SERVICE>_METRICS_PORT` is set, OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is, unless
`OTEL_METRICS_EXPORTER` is `none`. Off costs nothing: nothing of the SDK is imported for it (redis-py does so by
itself).

Both are served by threads of their own, so a scraper or a collector that is slow, silent or gone costs callers nothing;
what a domain counts in plain attributes is read there, at that moment (`reading`). Source: docs/adr/0027.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, NoOpMeter, Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.metrics.view import View

EXPORT_TIMEOUT_S = 2
EXPORT_INTERVAL_S = 15
"""Unless `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds) says otherwise; the SDK's own default is a minute."""

HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""From a cache hit to a long answer of a model: the convention's own end at 10 s."""
STORE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
GEN_AI_BUCKETS_S = tuple(0.01 * 2**n for n in range(14))
TOKEN_BUCKETS = tuple(4**n for n in range(14))
"""Both as the GenAI conventions advise."""
QUEUE_BUCKETS_S = (*HTTP_BUCKETS_S, 1_800, 3_600, 21_600, 86_400)
SHARE_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)
ITEM_BUCKETS = tuple(2**n for n in range(12))

BUCKETS: Mapping[str, tuple[float, ...]] = {
    "http.server.request.duration": HTTP_BUCKETS_S,
    "http.client.request.duration": HTTP_BUCKETS_S,
    "db.client.operation.duration": STORE_BUCKETS_S,
    "gen_ai.client.operation.duration": GEN_AI_BUCKETS_S,
    "gen_ai.client.operation.time_to_first_chunk": GEN_AI_BUCKETS_S,
    "gen_ai.client.token.usage": TOKEN_BUCKETS,
    "spillway.admission.wait.duration": HTTP_BUCKETS_S,
    "spillway.limits.utilization": SHARE_BUCKETS,
    "spillway.embeddings.joined": ITEM_BUCKETS,
    "spillway.jobs.queue.wait": QUEUE_BUCKETS_S,
    "spillway.jobs.duration": QUEUE_BUCKETS_S,
}
"""Of every histogram there is: one that stands not here gets the SDK's, which were made for milliseconds."""


def meter_provider(service: str, *readers: MetricReader) -> MeterProvider | None:
    """Build the provider of this process from the environment, or None when nobody takes metrics.

    `readers` beside OTLP: the one of the Prometheus page. `OTEL_METRICS_EXEMPLAR_FILTER` and its siblings mean what
    they always mean; by default a sampled request leaves its trace's id as an exemplar.
    """
    if is_exported():
        readers = (*readers, _exporting())
    if not readers:
        return None
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # costs memory
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415  # as above

    resource = Resource.create({SERVICE_NAME: service})
    return MeterProvider(readers, resource, shutdown_on_exit=False, views=views())


def views() -> list[View]:
    """The buckets of every histogram. Bounds only: neither the least nor the greatest value is kept."""
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View  # noqa: PLC0415  # costs memory

    return [
        View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(bounds, record_min_max=False))
        for name, bounds in BUCKETS.items()
    ]


def is_exported() -> bool:
    """Whether a collector is named that takes metrics."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return os.environ.get("OTEL_METRICS_EXPORTER") != "none" and any(os.environ.get(name) for name in endpoints)


def _exporting() -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # as above
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415  # as above

    named_ms = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL")  # read by the SDK, when it is given no other
    interval_ms = None if named_ms else EXPORT_INTERVAL_S * 1000
    return PeriodicExportingMetricReader(OTLPMetricExporter(timeout=EXPORT_TIMEOUT_S), interval_ms)


def meter(provider: MeterProvider | None, service: str) -> Meter:
    """The meter on which a service declares its instruments; without a provider one that does nothing."""
    return NoOpMeter(service) if provider is None else provider.get_meter(service)


def is_off(meter: Meter) -> bool:
    """Whether nothing that is recorded on it goes anywhere, so that it need not be recorded."""
    return isinstance(meter, NoOpMeter)


def store_durations(meter: Meter) -> Histogram:
    return meter.create_histogram(
        "db.client.operation.duration", "s", "Of an operation of a store, whatever the number of its commands."
    )


def reading(read: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """A callback for an observable instrument without attributes: `read` is asked for its value, by another thread."""
    return lambda _: (Observation(read()),)


def reading_each(
    counts: Callable[[], Mapping[Any, float]], *names: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """The same with attributes: `counts` is asked for values by what the attributes `names` are, a tuple if several.

    A dict that its owner goes on changing is fine: it is copied at one stroke (under the interpreter's lock).
    """

    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True)))
            for key, value in dict(counts()).items()
        ]

    return read
