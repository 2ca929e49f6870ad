"""Whether there are metrics at all, and how what a domain counts is read."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from common.telemetry import metrics, traces
from support.instruments import Instruments


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


def test_without_an_endpoint_and_a_page_there_are_none() -> None:
    assert metrics.meter_provider("gateway") is None
    assert metrics.is_off(metrics.meter(None, "gateway"))


def test_a_service_without_metrics_does_not_even_import_the_sdk_of_metrics() -> None:
    program = """
import sys
import threading
from common import server, service
from common.telemetry import metrics
assert metrics.meter_provider("gateway") is None
found = [name for name in sys.modules if name.startswith(("opentelemetry.sdk.metrics", "prometheus_client"))]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)  # noqa: S603  # ours


def test_a_reader_makes_a_meter_that_counts_under_the_name_of_the_service() -> None:
    reader = InMemoryMetricReader()
    provider = metrics.meter_provider("gateway", reader)
    metrics.meter(provider, "gateway").create_counter("spillway.things").add(1)

    data = reader.get_metrics_data()
    assert data is not None
    assert data.resource_metrics[0].resource.attributes["service.name"] == "gateway"


@pytest.mark.parametrize(
    ("environment", "is_exported"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9/v1/metrics"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRICS_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, False),
    ],
)
def test_metrics_are_exported_when_a_collector_is_named_that_takes_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], is_exported: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert metrics.is_exported() is is_exported


def test_what_is_counted_in_plain_attributes_is_read_when_somebody_looks() -> None:
    instruments = Instruments()
    outcomes: Counter[tuple[str, str]] = Counter({("hit", "/v1/embeddings"): 0})
    instruments.meter.create_observable_counter(
        "spillway.cache.requests", [metrics.reading_each(lambda: outcomes, "outcome", "endpoint")]
    )
    outcomes["hit", "/v1/embeddings"] += 2

    assert instruments.values("spillway.cache.requests", "outcome", "endpoint") == {("hit", "/v1/embeddings"): 2}


def test_every_histogram_of_the_product_has_buckets_of_its_own() -> None:
    instruments = Instruments()
    for name, bounds in metrics.BUCKETS.items():
        instruments.meter.create_histogram(name).record(1)
        [point] = instruments.points(name)
        assert point.explicit_bounds == bounds


def test_an_end_waits_for_the_last_export_no_longer_than_it_may() -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    class Stuck(MeterProvider):
        def shutdown(self, timeout_millis: float = 30_000) -> None:  # noqa: ARG002  # the SDK's
            may_end.wait(10)
            has_ended.set()

    traces.shut_down(Stuck(shutdown_on_exit=False), 0.01)
    assert not has_ended.is_set()
    may_end.set()
    assert has_ended.wait(10)
