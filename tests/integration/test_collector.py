"""A real collector with the configuration of Compose, where `OTELCOL_BIN` names one: which traces it keeps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

import httpx2
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from devstack.otlp_sink import Sink
from support.compose import FOLDER
from support.platform import BOUND_S, eventually
from support.ports import free_port
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BINARY = os.environ.get("OTELCOL_BIN", "")
pytestmark = pytest.mark.skipif(not BINARY, reason="OTELCOL_BIN names no collector")
PLAIN = 40
_S = 10**9


@contextlib.contextmanager
def collector(folder: Path, sink: str, kept_percent: int, spans_per_second: int) -> Iterator[str]:
    """The committed configuration, impatient, its traces sent to `sink`; yields where it takes spans."""
    port = free_port()
    text = (FOLDER / "otel-collector.yaml").read_text()
    for theirs, ours in {
        "0.0.0.0:4318": f"127.0.0.1:{port}",
        "  otlp_grpc:\n    endpoint: jaeger:4317\n": f"  otlp_http:\n    endpoint: {sink}\n    encoding: proto\n",
        "exporters: [otlp_grpc]": "exporters: [otlp_http]",
        "decision_wait_after_root_received: 5s": "decision_wait_after_root_received: 1s",
        "spans_per_second: 200": f"spans_per_second: {spans_per_second}",
        "host: 0.0.0.0, port: 9464": f"host: 127.0.0.1, port: {free_port()}",
    }.items():
        assert text.count(theirs) == 1, theirs
        text = text.replace(theirs, ours)
    (folder / "config.yaml").write_text(text)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # named by who runs the tests
            [BINARY, f"--config={folder / 'config.yaml'}"],
            env={"TRACES_KEPT_PERCENT": str(kept_percent)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def listens() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{port}/v1/traces", trust_env=False).status_code == 405
        return False

    try:
        eventually(listens, within_s=30)
        yield f"http://127.0.0.1:{port}/v1/traces"
    finally:
        process.terminate()
        process.wait(BOUND_S)


def send(endpoint: str) -> dict[str, list[str]]:
    """Make one trace of each kind that is worth keeping, and many that are not; returns their ids by kind."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint), max_export_batch_size=512))
    tracer = provider.get_tracer("test")
    sent: dict[str, list[str]] = {}
    now = time.time_ns()
    for kind in (*("plain",) * PLAIN, "error", "slow", "refused"):
        lasted_s = 11 if kind == "slow" else 1
        span = tracer.start_span(kind, start_time=now - lasted_s * _S)
        span.set_attribute("http.response.status_code", 429 if kind == "refused" else 200)
        if kind == "error":
            span.set_status(StatusCode.ERROR)
        span.end(now)
        sent.setdefault(kind, []).append(f"{span.get_span_context().trace_id:032x}")
    assert provider.force_flush()
    provider.shutdown()
    return sent


def kept(sink: str, ids: list[str]) -> int:
    return sum(bool(httpx2.get(f"{sink}/traces/{one}", trust_env=False).json()) for one in ids)


def test_errors_slow_and_refused_traces_are_kept_when_no_share_of_the_rest_is(tmp_path: Path) -> None:
    with running(Sink(), lifespan="off") as sink, collector(tmp_path, sink, 0, 0) as endpoint:
        sent = send(endpoint)
        eventually(lambda: all(kept(sink, sent[kind]) for kind in ("error", "slow", "refused")), within_s=30)
        assert kept(sink, sent["plain"]) == 0  # which came first, and were judged no later


def test_a_share_of_the_rest_is_kept(tmp_path: Path) -> None:
    with running(Sink(), lifespan="off") as sink, collector(tmp_path, sink, 50, 0) as endpoint:
        sent = send(endpoint)
        eventually(lambda: kept(sink, sent["slow"]), within_s=30)
        assert 0 < kept(sink, sent["plain"]) < PLAIN  # all or none: once in 2^39 runs


def test_in_quiet_times_every_trace_is_kept(tmp_path: Path) -> None:
    with running(Sink(), lifespan="off") as sink, collector(tmp_path, sink, 0, 200) as endpoint:
        sent = send(endpoint)
        eventually(lambda: kept(sink, sent["plain"]) == PLAIN, within_s=30)
