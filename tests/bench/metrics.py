"""`python tests/bench metrics`: what metrics add to a request, a call and a store's operation, in µs of CPU.

In one process and without sockets: a request through the outermost middleware, a call through the outermost transport.
Each is timed without metrics, with one reader (the page) and with two (OTLP beside it), in interleaved rounds; the
least of each is printed, and what it adds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import httpx2
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common.health import Health
from common.middleware import RequestScope
from common.telemetry import metrics
from common.telemetry.http_metrics import ClientMetrics, MeasuredCalls, ServerMetrics
from common.telemetry.spans import StoreSpans

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.metrics import Meter
    from starlette.types import Message, Receive, Scope, Send

_ROUNDS = 9
_TIMES = 2_000
_SAMPLED = NonRecordingSpan(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))


def main() -> None:
    logging.disable()
    print("µs of CPU            off   page (adds)   page, OTLP (adds)   page, OTLP, sampled (adds)")  # noqa: T201  # the report
    asyncio.run(_report())


async def _report() -> None:
    for name, make in (("a request", _request), ("a call", _call), ("an operation", _operation)):
        works = [await make(meter) for meter in (None, _meter(1), _meter(2))]
        least = [float("inf")] * 4
        for _ in range(_ROUNDS):
            for at, work in enumerate([*works, works[2]]):
                with trace.use_span(_SAMPLED if at == len(works) else trace.INVALID_SPAN):
                    least[at] = min(least[at], await _timed_us(work))
        off, *on = least
        print(f"{name:<16}{off:>8.1f}" + "".join(f"{one:>12.1f} ({one - off:+.1f})" for one in on))  # noqa: T201  # as above


async def _timed_us(work: Callable[[], Awaitable[None]]) -> float:
    began = time.thread_time()
    for _ in range(_TIMES):
        await work()
    return (time.thread_time() - began) / _TIMES * 1e6


def _meter(readers: int) -> Meter:
    provider = MeterProvider(
        [InMemoryMetricReader() for _ in range(readers)], shutdown_on_exit=False, views=metrics.views()
    )
    return provider.get_meter("bench")


async def _request(meter: Meter | None) -> Callable[[], Awaitable[None]]:
    class Route:
        path = "/v1/chat/completions"

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        scope["route"] = Route
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_: Message) -> None:
        pass

    scope = RequestScope(app, health=Health(), metrics=None if meter is None else ServerMetrics(meter))

    async def once() -> None:
        await scope({"type": "http", "method": "POST", "path": Route.path, "headers": []}, receive, send)

    return once


async def _call(meter: Meter | None) -> Callable[[], Awaitable[None]]:
    transport: httpx2.AsyncBaseTransport = httpx2.MockTransport(lambda _: httpx2.Response(200))
    if meter is not None:
        transport = MeasuredCalls(transport, ClientMetrics(meter))
    request = httpx2.Request("POST", "http://127.0.0.1:8081/v1/chat/completions", content=b"{}")

    async def once() -> None:
        await transport.handle_async_request(request)

    return once


async def _operation(meter: Meter | None) -> Callable[[], Awaitable[None]]:
    store = StoreSpans("limits", meter=meter)

    async def once() -> None:
        with store.operation("admit"):
            pass

    return once
