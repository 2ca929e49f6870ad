"""The Prometheus page of a real process: there when asked for, on its own port, and nobody waits for who reads it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from common.metrics_page import MetricsPage
from support.platform import eventually
from support.readings import scrape

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND_S = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def environment(**settings: str) -> dict[str, str]:
    """Of a cache service whose store is away: it serves all the same."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CACHE_", "OTEL_"))}
    ours = {
        "CACHE_STORE_URL": f"redis://127.0.0.1:{free_port()}",
        "CACHE_HOP_SECRET": "the-cache-hop-secret-of-the-tests-0123456789abcdef",
        "CACHE_PORT": str(free_port()),
        "CACHE_DRAIN_DELAY_S": "0",
    }
    return clean | ours | settings


@contextlib.contextmanager
def cache_service(**settings: str) -> Iterator[str]:
    """Run the process; yields its URL as soon as it answers."""
    its = environment(**settings)
    url = f"http://127.0.0.1:{its['CACHE_PORT']}"
    with subprocess.Popen([sys.executable, "-m", "cache"], env=its, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: status_of(f"{url}/health"), BOUND_S)
            yield url
        finally:
            process.terminate()
            process.wait(BOUND_S)


def status_of(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=BOUND_S) as answer:  # noqa: S310  # ours
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def test_a_service_shows_its_metrics_on_a_port_of_its_own_and_not_on_the_one_of_callers() -> None:
    port = free_port()
    with cache_service(CACHE_METRICS_PORT=str(port)) as url:
        assert status_of(f"{url}/metrics") == 404
        samples = scrape(f"http://127.0.0.1:{port}/metrics")

    assert [sample.labels for sample in samples if sample.name == "http_server_request_duration_seconds_count"] == [
        {"http_request_method": "GET", "http_response_status_code": "404"}
    ]
    assert {"process_cpu_time_seconds_total", "spillway_memory_usage_bytes", "spillway_event_loop_lag_seconds"} <= {
        sample.name for sample in samples
    }


def test_a_scraper_that_says_nothing_keeps_no_caller_and_no_other_scraper_waiting() -> None:
    port = free_port()
    with contextlib.ExitStack() as silent, cache_service(CACHE_METRICS_PORT=str(port)) as url:
        for _ in range(20):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert status_of(f"{url}/health") == 200
        assert scrape(f"http://127.0.0.1:{port}/metrics")


def test_a_taken_port_for_metrics_is_one_line_and_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "cache"],
            env=environment(CACHE_METRICS_PORT=str(port)),
            capture_output=True,
            text=True,
            check=False,
            timeout=BOUND_S,
        )
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
