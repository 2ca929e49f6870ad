"""Secrets that callers send, and every place where something of them could stay."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import httpx2
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # its types are a package of their own
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from redis import Redis

from devstack import env_file
from devstack.stores import STORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from starlette.types import Receive, Scope, Send

    from e2e.up_process import UpProcess

SECRET = "canary-7b1f3e9d"
"""A prompt, a key, a header, what an upstream repeats of them: it stays nowhere."""
PATH, MODEL, TENANT, LABEL = "canary-path-51c0", "canary-model-51c0", "canary-tenant-51c0", "canary-label-51c0"
"""Words that a caller or an operator chose as names: each has a place where it belongs, and stays nowhere else."""
BELONGS = {
    PATH: re.compile(r'"(path|url\.path)": ?"[^"]*"'),
    MODEL: re.compile(r'"model": ?"[^"]*"'),
    TENANT: re.compile(r'"(tenant|spillway\.tenant|subject|path|url\.path)": ?"[^"]*"'),
    LABEL: re.compile(r"(?!)"),
}
MEASURED = ("gateway", "inference", "cache", "jobs", "worker")
_SHOWN = ("dev.env", "secrets.env", "stack.env")
"""Files of the development stack whose purpose it is to hold keys."""


def leaks(
    place: str, text: str, secrets: Iterable[str], *, names: Iterable[str] = (PATH, MODEL, TENANT, LABEL)
) -> Iterator[str]:
    """What of `secrets`, and which of `names` out of its place, is in `text`, with what is around it."""
    for secret in secrets:
        if secret in text:
            yield f"{place}: {secret[:12]}… in {_around(text, secret)}"
    for name in names:
        if name in (elsewhere := BELONGS[name].sub("", text)):
            yield f"{place}: {name} in {_around(elsewhere, name)}"


def _around(text: str, secret: str) -> str:
    place = text.find(secret)
    return text[max(place - 200, 0) : place + 60]


class Collector:
    """An OTLP receiver that outlives what it collects from, and forgets nothing. Plain ASGI."""

    def __init__(self) -> None:
        self._exports: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        is_packed = (b"content-encoding", b"gzip") in scope["headers"]
        self._exports.append((scope["path"], gzip.decompress(body) if is_packed else body))
        headers = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def spans(self) -> str:
        return self._told("/v1/traces", ExportTraceServiceRequest)

    def metrics(self) -> str:
        return self._told("/v1/metrics", ExportMetricsServiceRequest)

    def _told(self, wanted: str, kind: Any) -> str:
        """As JSON, in which an attribute is a field."""
        bodies = [body for path, body in self._exports if path == wanted]
        told = "\n".join(json.dumps(_plain(MessageToDict(kind.FromString(body)))) for body in bodies)
        assert all(f'"service.name": "{service}"' in told for service in MEASURED)
        return told


def _plain(node: Any) -> Any:
    match node:
        case {"key": key, "value": value}:
            return {key: _plain(next(iter(value.values()), None))}
        case dict():
            return {name: _plain(value) for name, value in node.items()}
        case list():
            return [_plain(value) for value in node]
    return node


def pages(up: UpProcess) -> str:
    """What each service's page of metrics says."""
    ports = [variables(up)[f"{name.upper()}_METRICS_PORT"] for name in MEASURED]
    found = [httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text for port in ports]
    assert all("http_server_" in page or "spillway_" in page for page in found)
    return "\n".join(found)


def variables(up: UpProcess) -> Mapping[str, str]:
    return env_file.read(up.local / "stack.env")


def stores(up: UpProcess) -> Mapping[str, str]:
    """The URL of each store by its name."""
    return {store.name: variables(up)[store.variable] for store in STORES}


def kept(up: UpProcess) -> tuple[str, str]:
    """The names of all that the stores hold, and its values."""
    names: list[bytes] = []
    values: list[Any] = []
    for url in stores(up).values():
        with Redis.from_url(url) as store:
            for name in store.scan_iter(count=1_000):
                names.append(name)
                match store.type(name):
                    case b"hash":
                        values.append(store.hgetall(name))
                    case b"zset":
                        names += store.zrange(name, 0, -1)
                    case b"set":
                        names += store.smembers(name)
                    case b"list":
                        values.append(store.lrange(name, 0, -1))
                    case b"stream":
                        values.append(store.xrange(name))
                    case _:
                        values.append(store.get(name))
    assert len(names) > 100
    return b"\n".join(names).decode("latin-1"), str(values)


def files(up: UpProcess) -> str:
    """What the stores and the stack have ever written to the disk, what was deleted since included."""
    found = [path for path in up.local.rglob("*") if path.is_file() and path.name not in _SHOWN]
    assert any("appendonly" in str(path) for path in found)
    return "\n".join(path.read_text("latin-1") for path in found)
