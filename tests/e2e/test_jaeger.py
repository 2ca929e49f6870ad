"""A real Jaeger v2 takes our spans and gives the tree back through its API. `JAEGER_BIN` names its binary.

Where there is a Go toolchain it is an ordinary Go module: docs/operations.md says how to build it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_tree
from e2e.up_process import UpProcess, wait_until
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JAEGER = os.environ.get("JAEGER_BIN", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not JAEGER, reason="JAEGER_BIN names no Jaeger v2: docs/operations.md says how to get one"),
]
START_S = 60
CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}}}
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 1000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: 127.0.0.1:{query}}}
    grpc: {{endpoint: 127.0.0.1:{grpc}}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: 127.0.0.1:{otlp}}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


@pytest.fixture
def jaeger(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where it takes spans, and where it is asked."""
    chosen = {name: free_port() for name in ("query", "grpc", "otlp")}
    config = tmp_path / "jaeger.yaml"
    config.write_text(CONFIG.format(**chosen))
    otlp, query = (f"http://127.0.0.1:{chosen[name]}" for name in ("otlp", "query"))
    with (
        (tmp_path / "jaeger.log").open("w") as log,
        subprocess.Popen(  # noqa: S603  # what its user named
            [JAEGER, "--config", str(config)], stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or is_up(query), START_S, "Jaeger answers")
            assert process.poll() is None, (tmp_path / "jaeger.log").read_text()
            yield otlp, query
        finally:
            process.terminate()


def is_up(url: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/api/v3/services", trust_env=False).is_success
    return False


def spans_of(query: str, trace_id: str) -> list[trace_tree.Span]:
    """From its answer, which is OTLP as JSON."""
    answer = httpx2.get(f"{query}/api/v3/traces/{trace_id}", trust_env=False)
    if not answer.is_success:
        return []
    return [
        trace_tree.Span(
            span["spanId"],
            span.get("parentSpanId") or None,
            attributes_of(resource["resource"])["service.name"],
            span["name"],
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            kind=str(span["kind"]),
            status=str(span.get("status", {}).get("code", 0)),
            attributes=attributes_of(span),
            events=span.get("events", []),
        )
        for resource in answer.json()["result"]["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def attributes_of(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values()), None) for pair in holder.get("attributes", [])}


def test_jaeger_shows_one_tree_from_the_edge_to_the_upstream(jaeger: tuple[str, str], tmp_path: Path) -> None:
    otlp, query = jaeger
    body = {"model": "sim-small", "messages": [{"role": "user", "content": "[[sim status=503 times=1]] hello"}]}
    with UpProcess(tmp_path / "local", OTEL_EXPORTER_OTLP_ENDPOINT=otlp, GATEWAY_CACHE_TIMEOUT_S="0.5") as up:
        authorization = {"authorization": f"Bearer {up.client['OPENAI_API_KEY']}"}
        url = f"{up.client['SPILLWAY_URL']}/v1/chat/completions"
        answer = httpx2.post(url, json=body, headers=authorization, timeout=30, trust_env=False)
        assert answer.status_code == 200
        trace_id = answer.headers["x-trace-id"]
        wait_until(lambda: len(spans_of(query, trace_id)) >= 12, 30, "all spans have arrived")
        tree = trace_tree.build(spans_of(query, trace_id))
        services = httpx2.get(f"{query}/api/v3/services", trust_env=False).json()["services"]
    assert tree.problems == []
    assert Counter((span.service, span.name) for span in tree.walk() if "key" not in span.name) == {
        ("gateway", "POST /v1/chat/completions"): 1,
        ("gateway", "POST"): 2,
        ("gateway", "PUT"): 1,
        ("cache", "POST /v1/lookups"): 1,
        ("cache", "look_up cache"): 1,
        ("cache", "PUT /v1/entries/{fingerprint}"): 1,
        ("cache", "put cache"): 1,
        ("inference", "POST /v1/chat/completions"): 1,
        ("inference", "chat sim-small"): 1,
        ("inference", "attempt"): 2,
    }
    assert {"gateway", "cache", "inference"} <= set(services)
    root = tree.roots[0].span
    assert (root.service, root.attributes["spillway.cache.outcome"]) == ("gateway", "miss")
