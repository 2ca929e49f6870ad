"""`traces`: a small OTLP/HTTP receiver that answers what it received. Plain ASGI, so that it costs 25 MB and not 60.

Source: OTLP specification 1.x, "OTLP/HTTP": binary protobuf, optionally gzipped; the answer is an empty message.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its types are a package of their own

from devstack import ports
from devstack.span_log import SpanLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 16 * 2**20
"""Sent or unpacked; a full batch of 512 spans is well below 1 MB."""
_TRACE = re.compile(r"/traces/([0-9a-f]{32})")


class _RefusedError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Sink:
    """`POST /v1/traces`, `GET /traces`, `GET /traces/{trace_id}`, `GET /health`."""

    def __init__(self, spans: SpanLog | None = None) -> None:
        self._spans = spans or SpanLog()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            kind, body = await self._answer(scope, receive)
            status = 200
        except _RefusedError as refused:
            status, kind, body = refused.status, b"application/json", orjson.dumps({"error": str(refused)})
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[bytes, bytes]:
        match scope["method"], scope["path"]:
            case "POST", "/v1/traces":
                await self._store(dict(scope["headers"]), receive)
                return b"application/x-protobuf", b""
            case "GET", "/traces":
                return b"application/json", orjson.dumps(self._spans.recent())
            case "GET", "/health":
                return b"application/json", b'{"status":"ok"}'
            case "GET", path if found := _TRACE.fullmatch(path):
                return b"application/json", orjson.dumps(self._spans.trace(found[1]))
        raise _RefusedError(404, "there is POST /v1/traces, GET /traces, GET /traces/{trace_id} and GET /health")

    async def _store(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        if headers.get(b"content-type", b"").partition(b";")[0].strip() != b"application/x-protobuf":
            raise _RefusedError(415, "only application/x-protobuf is understood")
        body = await _read(receive)
        if headers.get(b"content-encoding") == b"gzip":
            body = _unpack(body)
        try:
            self._spans.add(body)
        except DecodeError as error:
            raise _RefusedError(400, "not an ExportTraceServiceRequest") from error


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"more than {MAX_BODY_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)


def _unpack(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)  # with a gzip header
    try:
        unpacked = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise _RefusedError(400, "not gzip") from error
    if unpacker.unconsumed_tail:
        raise _RefusedError(413, f"more than {MAX_BODY_BYTES} bytes")
    return unpacked


def serve(port: int) -> None:
    """Run until a signal."""
    uvicorn.run(
        Sink(), host=ports.HOST, port=port, lifespan="off", ws="none", access_log=False, log_level="warning",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
