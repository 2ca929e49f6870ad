"""The Prometheus page of a real process: there when asked for, on its own port, and nobody waits for who reads it."""

from __future__ import annotations

import contextlib
import socket
import subprocess

from common.telemetry.metrics_page import MetricsPage
from support.cache_process import BOUND_S, COMMAND, cache_process, environment
from support.ports import free_port
from support.readings import scrape


def test_a_service_shows_its_metrics_on_a_port_of_its_own_whoever_else_reads_there_and_says_nothing() -> None:
    port = free_port()
    with cache_process(CACHE_METRICS_PORT=str(port)) as service, contextlib.ExitStack() as silent:
        for _ in range(20):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert service.get("/metrics") == 404
        samples = scrape(f"http://127.0.0.1:{port}/metrics")

    assert [sample.labels for sample in samples if sample.name == "http_server_request_duration_seconds_count"] == [
        {"http_request_method": "GET", "http_response_status_code": "404"}
    ]
    assert {"process_cpu_time_seconds_total", "spillway_memory_usage_bytes", "spillway_event_loop_lag_seconds"} <= {
        sample.name for sample in samples
    }


def test_a_taken_port_for_metrics_is_one_line_and_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        its = environment(CACHE_METRICS_PORT=str(port))
        ended = subprocess.run(COMMAND, env=its, capture_output=True, text=True, check=False, timeout=BOUND_S)  # noqa: S603  # ours
    assert (ended.returncode, ended.stderr) == (
        2,
        f"cache: CACHE_METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use\n",
    )


def test_a_page_without_readers_asks_nothing_of_anybody() -> None:
    page = MetricsPage("127.0.0.1", 0)
    page.start()
    try:
        assert scrape(f"http://127.0.0.1:{page.port}/metrics") == []
    finally:
        page.close()
