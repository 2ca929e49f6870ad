"""`python tests/bench tracing`: what tracing adds to a request, a call and a store's operation, in µs of CPU.

In one process and without sockets, but for those over which spans leave, to a sink in another. Each is timed without
tracing, in a trace that is not sampled and in one that is, whose spans are sent before the clock stops; in interleaved
rounds; the least of each is printed, and what it adds. A busy machine disturbs this less than the lanes `trace`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from fastapi import APIRouter, Response
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from common.health import Health
from common.middleware import RequestScope
from common.service import frame
from common.telemetry.client_spans import ClientSpans
from common.telemetry.server_spans import ServerSpans
from common.telemetry.span_export import ExportingProvider
from common.telemetry.spans import StoreSpans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Work = Callable[[], Awaitable[None]]

_ROUNDS = 15
_TIMES = 500
_SHARES = (0, 1)
_SINK_S = 10
_PATH = "/v1/chat/completions"


def main() -> None:
    logging.disable()
    with _sink():
        exporting = [*map(_provider, _SHARES)]
        providers = [None, *exporting]
        print(f"{'µs of CPU':<20}{'off':>8}{'not sampled (adds)':>22}{'sampled (adds)':>22}")  # noqa: T201  # the report
        for name, make in (("a request, edge", _edge), ("a request, inner", _inner), ("a call", _call),
                           ("an operation", _operation)):  # fmt: skip
            off, *on = asyncio.run(_least(providers, make))
            print(f"{name:<20}{off:>8.1f}" + "".join(f"{one:>14.1f} ({one - off:+.1f})" for one in on))  # noqa: T201  # as above
        for provider in exporting:
            provider.shutdown()


async def _least(
    providers: list[ExportingProvider | None], make: Callable[[ExportingProvider | None], Work]
) -> list[float]:
    works = [make(provider) for provider in providers]
    least = [float("inf")] * len(works)
    for _ in range(_ROUNDS):
        for at, (work, provider) in enumerate(zip(works, providers, strict=True)):
            with use_span(_within(at)):
                began = time.process_time()
                for _ in range(_TIMES):
                    await work()
            if provider is not None:
                provider.force_flush()
            least[at] = min(least[at], (time.process_time() - began) / _TIMES * 1e6)
    return least


def _within(at: int) -> NonRecordingSpan:
    """The trace that a call or an operation belongs to; a request has its own."""
    flags = TraceFlags(_SHARES[at - 1]) if at else TraceFlags.get_default()
    return NonRecordingSpan(SpanContext(min(at, 1), 1, is_remote=False, trace_flags=flags))


def _edge(provider: ExportingProvider | None) -> Work:
    router = APIRouter()

    @router.post(_PATH)
    async def answer() -> Response:
        return Response()

    return _request(
        frame("bench", lifespan=_opens_nothing, health=Health(), routers=[router], tracer_provider=provider, edge=True)
    )


def _inner(provider: ExportingProvider | None) -> Work:
    class Route:
        path = _PATH

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        scope["route"] = Route
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    whole: ASGIApp = RequestScope(app, health=Health())
    if provider is None:
        return _request(whole)
    traceparent = b"00-%032x-%016x-0%d" % (1, 1, _share_of(provider))
    return _request(ServerSpans(whole, provider=provider), (b"traceparent", traceparent))


def _request(app: ASGIApp, *more: tuple[bytes, bytes]) -> Work:
    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_: Message) -> None:
        pass

    headers = [(f"x-header-{number}".encode(), b"value") for number in range(10)]
    scope = {
        "type": "http", "method": "POST", "path": _PATH, "scheme": "http", "http_version": "1.1", "root_path": "",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 50_000), "headers": [*headers, *more], "query_string": b"",
    }  # fmt: skip

    async def once() -> None:
        await app(scope | {"state": {}}, receive, send)

    return once


@contextlib.asynccontextmanager
async def _opens_nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def _call(provider: ExportingProvider | None) -> Work:
    transport: httpx2.AsyncBaseTransport = httpx2.MockTransport(lambda _: httpx2.Response(200))
    if provider is not None:
        transport = ClientSpans(transport, provider)
    request = httpx2.Request("POST", "http://127.0.0.1:8081/v1/chat/completions", content=b"{}")

    async def once() -> None:
        await transport.handle_async_request(request)

    return once


def _operation(provider: ExportingProvider | None) -> Work:
    store = StoreSpans("limits", provider)

    async def once() -> None:
        with store.operation("admit"):
            pass

    return once


def _share_of(provider: ExportingProvider) -> int:
    return int("1.0" in provider.sampler.get_description())


def _provider(share: int) -> ExportingProvider:
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(share)}
    return ExportingProvider(Resource.create({SERVICE_NAME: "bench"}))


@contextlib.contextmanager
def _sink() -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("sink.py")), str(port)])  # noqa: S603  # our own
    try:
        give_up_at = time.monotonic() + _SINK_S
        while not _listens(port):
            if time.monotonic() > give_up_at:
                raise RuntimeError("the sink did not start")
            time.sleep(0.01)
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
