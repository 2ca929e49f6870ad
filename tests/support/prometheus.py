"""A real Prometheus with the configuration and the rules of infra/compose, that looks at processes of a test."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml

from support.platform import eventually
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMITTED = Path(__file__).parents[2] / "infra/compose/prometheus"
BINARY = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(BINARY is None, reason="prometheus is not installed (Debian: prometheus)")
_START_S = 20
_STOP_S = 10
_SCRAPED_S = 30
_INTERVAL = "1s"
_NOT_RUN = ("traefik", "collector", "jaeger")
"""What Compose runs beside the services, and no test does."""


class Prometheus:
    def __init__(self, url: str, jobs: set[str]) -> None:
        self._jobs = jobs
        self._http = httpx2.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it evaluates to at this moment. Raises with Prometheus' words when it is no expression."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Those of the last hour of the series that occur in the expression."""
        series = self._get("query_exemplars", query=expression, start="0", end="9999999999")
        return [exemplar for one in series for exemplar in one["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, and when it was evaluated last."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def scraped_again(self, times: int) -> None:
        """Wait until every process has been read so many times more, without a failure."""
        reads = "sum_over_time(up[1h])"
        before = {one["metric"]["job"]: float(one["value"][1]) for one in self.query(reads)}
        eventually(lambda: self._have_grown(reads, before, times), within_s=_SCRAPED_S)

    def _have_grown(self, reads: str, before: Mapping[str, float], times: int) -> bool:
        now = {one["metric"]["job"]: float(one["value"][1]) for one in self.query(reads)}
        return bool(now) and all(count >= before.get(job, 0) + times for job, count in now.items())

    def is_ready(self) -> bool:
        try:
            jobs = {one["metric"]["job"] for one in self.query("up == 1")}
        except (httpx2.TransportError, httpx2.HTTPStatusError):
            return False
        return jobs == self._jobs

    def close(self) -> None:
        self._http.close()

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(path, params=parameters)
        if answer.status_code == httpx2.codes.BAD_REQUEST:
            raise AssertionError(answer.json()["error"], parameters)
        answer.raise_for_status()
        return answer.json()["data"]


@contextlib.contextmanager
def prometheus(pages: Mapping[str, str], directory: Path) -> Iterator[Prometheus]:
    """Run it until the block is left: `pages` are `host:port` of the services' metrics, by service."""
    assert BINARY is not None
    (directory / "prometheus.yml").write_text(yaml.safe_dump(_configuration(pages)))
    port = free_port()
    command = [
        BINARY,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603  # ours
    running = Prometheus(f"http://127.0.0.1:{port}", set(pages))
    try:
        eventually(functools.partial(_is_decided, running, process), within_s=_START_S)
        assert process.poll() is None, (directory / "log").read_text()
        yield running
    finally:
        running.close()
        process.terminate()
        process.wait(_STOP_S)


def _is_decided(running: Prometheus, process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None or running.is_ready()


def _configuration(pages: Mapping[str, str]) -> dict[str, Any]:
    """What is committed, but impatient, and with addresses in place of names that a network would resolve.

    The jobs without a page, such as the edge's, are left out.
    """
    configuration: dict[str, Any] = yaml.safe_load((COMMITTED / "prometheus.yml").read_text())
    configuration["global"] |= {
        "scrape_interval": _INTERVAL,
        "scrape_timeout": _INTERVAL,
        "evaluation_interval": _INTERVAL,
    }
    configuration["rule_files"] = [str(COMMITTED / pattern) for pattern in configuration["rule_files"]]
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    configuration["scrape_configs"] = [
        jobs[service] | {"static_configs": [{"targets": [page]}]} for service, page in pages.items()
    ]
    return configuration
