"""The Prometheus page names, beside a latency's bucket, a trace that it was measured in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from common.telemetry import metrics
from common.telemetry.metrics_page import MetricsPage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import Histogram

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"
BUCKET = re.compile(r'^(\w+)_bucket\{(.*)\} \S+ # \{span_id="[0-9a-f]{16}",trace_id="([0-9a-f]{32})"\} (\S+) \S+$')


class Page:
    def __init__(self, page: MetricsPage, durations: Histogram) -> None:
        self.durations = durations
        self._url = f"http://127.0.0.1:{page.port}/metrics"

    def read(self, accept: str = OPEN_METRICS) -> str:
        return httpx2.get(self._url, headers={"accept": accept}, trust_env=False).text

    def exemplars(self) -> list[tuple[str, str, str, str]]:
        """Name, labels, trace and value of each that is on the page."""
        return [match.groups() for line in self.read().splitlines() if (match := BUCKET.match(line))]  # type: ignore[misc]


@pytest.fixture
def page() -> Iterator[Page]:
    served = MetricsPage("127.0.0.1", 0)
    provider = metrics.meter_provider("gateway", served.reader)
    served.start()
    try:
        meter = metrics.meter(provider, "gateway")
        yield Page(served, meter.create_histogram("http.server.request.duration", "s"))
    finally:
        served.close()


def test_each_bucket_names_the_last_trace_that_fell_into_it(page: Page) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    traces = []
    for seconds in (0.02, 0.021, 0.25, 1_000):
        with tracer.start_as_current_span("a request") as span:
            page.durations.record(seconds, {"http.route": "/generate", "http.response.status_code": 200})
            traces.append(f"{span.get_span_context().trace_id:032x}")
    labels = 'http_response_status_code="200",http_route="/generate",le="{}"'
    assert page.exemplars() == [
        ("http_server_request_duration_seconds", labels.format("0.025"), traces[1], "0.021"),
        ("http_server_request_duration_seconds", labels.format("0.25"), traces[2], "0.25"),
        ("http_server_request_duration_seconds", labels.format("+Inf"), traces[3], "1000.0"),
    ]
    assert page.exemplars() == [], "nothing was measured since"


def test_a_row_that_lacks_a_label_of_the_others_keeps_its_exemplar(page: Page) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
    with tracer.start_as_current_span("a request"):
        page.durations.record(0.2, {"http.route": "/generate"})
        page.durations.record(0.2, {"error.type": "500"})
    assert len(page.exemplars()) == 2


def test_what_is_measured_outside_of_a_trace_or_in_one_that_is_not_sampled_names_none(page: Page) -> None:
    page.durations.record(0.02)
    with TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("tests").start_as_current_span("a request"):
        page.durations.record(0.02)
    assert 'http_server_request_duration_seconds_bucket{le="0.025"} 2.0' in page.read()
    assert "# {" not in page.read()


def test_the_plain_format_has_the_same_numbers_without_exemplars(page: Page) -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("tests").start_as_current_span("a request"):
        page.durations.record(0.02)
    assert 'http_server_request_duration_seconds_bucket{le="0.025"} 1.0\n' in page.read("text/plain")
