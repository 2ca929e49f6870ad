"""The receiver against the SDK's own exporter, and against what no exporter sends."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from devstack import local_http, otlp_sink
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture
def url() -> Iterator[str]:
    with running(otlp_sink.Sink(), lifespan="off") as url:
        yield url


def get(url: str) -> Any:
    return local_http.request(url).json()


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(f"{url}/v1/traces", data=body, headers=headers)  # noqa: S310  # http, ours
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310  # as above
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_the_sdk_exports_can_be_read_back_as_a_tree(url: str, compression: Compression) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "gateway"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("request") as root, tracer.start_as_current_span("chat"):
        pass
    provider.shutdown()

    [summary] = get(f"{url}/traces")
    request, chat = get(f"{url}/traces/{summary['trace_id']}")

    assert summary["trace_id"] == f"{root.get_span_context().trace_id:032x}"
    assert (summary["name"], summary["service"], summary["spans"]) == ("request", "gateway", 2)
    assert (request["name"], request["parent_id"]) == ("request", None)
    assert (chat["name"], chat["parent_id"]) == ("chat", request["span_id"])


def test_it_says_that_it_is_there(url: str) -> None:
    assert get(f"{url}/health") == {"status": "ok"}


def test_an_unknown_trace_is_an_empty_list(url: str) -> None:
    assert get(f"{url}/traces/{'0' * 32}") == []


@pytest.mark.parametrize("path", ["/", "/traces/short", "/v1/metrics"])
def test_another_path_is_told_what_there_is(url: str, path: str) -> None:
    answer = local_http.request(url + path)

    assert answer.status == 404
    assert "/v1/traces" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", PROTOBUF, 200),
        (b"\xff\xff", PROTOBUF, 400),
        (b"no gzip", PROTOBUF | {"content-encoding": "gzip"}, 400),
        (json.dumps({}).encode(), {"content-type": "application/json"}, 415),
        (b"\0" * (otlp_sink.MAX_BODY_BYTES + 1), PROTOBUF, 413),
        (gzip.compress(b"\0" * (otlp_sink.MAX_BODY_BYTES + 1)), PROTOBUF | {"content-encoding": "gzip"}, 413),
    ],
    ids=["nothing", "no protobuf", "no gzip", "JSON", "too much", "too much once unpacked"],
)
def test_what_cannot_be_kept_is_refused_by_status(url: str, body: bytes, headers: dict[str, str], status: int) -> None:
    assert post(url, body, headers) == status
    assert get(f"{url}/traces") == []
