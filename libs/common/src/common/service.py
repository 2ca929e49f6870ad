"""The frame that every service's application has around its own routes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from common import errors
from common.middleware import RequestScope
from common.overload.gate import Gate
from common.telemetry import metrics, process_metrics, traces
from common.telemetry.http_metrics import ServerMetrics
from common.telemetry.refusals import Refusals
from common.telemetry.server_spans import ServerSpans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from fastapi import APIRouter
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider

    from common.health import Health
    from common.overload.shedder import Shedder

    Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


def frame(  # noqa: PLR0913  # a name and six parts, all but it by keyword
    name: str,
    *,
    lifespan: Lifespan,
    health: Health,
    routers: Iterable[APIRouter],
    tracer_provider: TracerProvider | None,
    meter: Meter | None = None,
    edge: bool = False,
    is_ours: Callable[[str], bool] = lambda _: False,
    shedder: Shedder | None = None,
    refusals: Refusals | None = None,
    note_error: Callable[[dict[str, Any], errors.ServiceError], None] = lambda *_: None,
) -> FastAPI:
    """Build an application with health routes, one error shape, request ids, log lines and server spans.

    It serves no documentation of itself and redirects nothing: a redirect's target would come from the caller's Host.
    `edge`: it faces clients, so ids and traces start here, but for a request whose `Authorization` `is_ours`: there the
    platform itself calls, and its trace goes on. `shedder`: says when new work is refused at the door.
    `meter`: where the frame's own metrics go; without one, or with one that does nothing, nothing is recorded.
    `refusals`: counts what is refused, where a service has to count some of it itself. `note_error`: told of each error
    that is answered, with its request's `scope["state"]`.
    """
    refusals = refusals or Refusals()
    of_requests: ServerMetrics | None = None
    if meter is not None and not metrics.is_off(meter):
        of_requests = ServerMetrics(meter)
        lifespan = _measured(meter, lifespan)
        process_metrics.observe_losses(meter, refusals, shedder, lambda: traces.dropped_spans(tracer_provider))
    app = FastAPI(
        title=f"Spillway {name}",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.refusals = refusals
    errors.install(app, refusals, note_error)
    app.add_middleware(RequestScope, health=health, edge=edge, metrics=of_requests)
    if tracer_provider is not None and edge:
        from common.telemetry import edge_spans  # noqa: PLC0415  # brings the SDK along

        edge_spans.instrument(app, tracer_provider, is_ours=is_ours)
    elif tracer_provider is not None:  # around all of it: the last that is added is the outermost
        app.add_middleware(ServerSpans, provider=tracer_provider)
    for router in (health.router(), *routers):
        app.include_router(router)
    if shedder is not None:
        # Outside of all middleware: a refusal costs no span.
        build_stack = app.build_middleware_stack
        app.build_middleware_stack = lambda: Gate(build_stack(), shedder, refusals, of_requests)  # type: ignore[method-assign]  # the framework's own hook
    return app


def _measured(meter: Meter, lifespan: Lifespan) -> Lifespan:
    lag = process_metrics.LoopLag()
    process_metrics.observe(meter, lag)

    @contextlib.asynccontextmanager
    async def watched(app: FastAPI) -> AsyncIterator[Any]:
        async with lag.watched(), lifespan(app) as state:
            yield state

    return watched
