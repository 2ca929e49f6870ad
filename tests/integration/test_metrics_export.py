"""Metrics over OTLP: what arrives, and that a collector which is no help costs callers nothing."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.health import Health
from common.service import frame
from common.telemetry import metrics, traces
from support.cache_process import cache_process
from support.otlp_metrics import MetricsSink
from support.platform import eventually
from support.ports import free_port
from support.raw_server import talking
from support.server import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import FastAPI
    from opentelemetry.sdk.metrics import MeterProvider

DURATION = "http.server.request.duration"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


def test_what_was_counted_last_leaves_at_the_end_with_the_traces_as_exemplars() -> None:
    sink = MetricsSink()
    with running(sink, lifespan="off") as collector:
        an_hour = {"OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        with cache_process(OTEL_EXPORTER_OTLP_ENDPOINT=collector, **an_hour) as service:
            assert service.get("/nowhere", SAMPLED) == 404
            service.stop()

    assert sink.services() == {"cache"}
    [duration] = [metric for metric in sink.metrics() if metric.name == DURATION]
    [point] = duration.histogram.data_points
    assert (point.count, point.explicit_bounds[0], point.explicit_bounds[-1]) == (1, 0.005, 600)
    assert [exemplar.trace_id.hex() for exemplar in point.exemplars] == [TRACE_ID]


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch, collector: str) -> Iterator[tuple[str, MeterProvider]]:
    """An application that exports its metrics 20 times a second, and what exports them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector}/v1/metrics")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    provider = metrics.meter_provider("test")
    assert provider is not None
    meter = metrics.meter(provider, "test")
    app = frame("test", lifespan=_nothing, health=Health(), routers=[], tracer_provider=None, meter=meter)
    try:
        with running(app) as url:
            yield url, provider
    finally:
        traces.shut_down(provider, 0.1)


def test_exports_come_by_themselves_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MetricsSink()
    with running(sink, lifespan="off") as collector, served(monkeypatch, collector) as (url, _):
        assert httpx2.get(f"{url}/nowhere", trust_env=False).status_code == 404
        assert eventually(lambda: any(metric.name == DURATION for metric in sink.metrics()))


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def one_who_accepts_and_says_nothing() -> Iterator[str]:
    with talking(lambda conversation: conversation.stay_silent()) as url:
        yield url


@contextlib.contextmanager
def a_black_hole() -> Iterator[str]:
    """Connections to it are neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as held, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  # the standard library's
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("collector", [nobody, one_who_accepts_and_says_nothing, a_black_hole])
def test_a_collector_that_is_no_help_holds_up_nobody_and_floods_no_log(
    collector: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opentelemetry")
    with (
        collector() as gone,
        served(monkeypatch, gone) as (url, _),
        httpx2.Client(base_url=url, trust_env=False, timeout=5) as http,
    ):
        assert {http.get("/nowhere").status_code for _ in range(200)} == {404}
    assert len([record for record in caplog.records if record.name.startswith("opentelemetry")]) < 20
