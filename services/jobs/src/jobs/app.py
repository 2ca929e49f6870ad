"""The API of the jobs service: where its parts meet. The worker is a process of its own, `jobs.worker`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry.metrics import NoOpMeter

from common.background import running
from common.figures import Figures
from common.health import Health
from common.identity import HopVerifier
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.stores import close, connect, is_reachable
from common.telemetry import traces
from common.telemetry.spans import StoreSpans
from jobs.dead_letters import DeadLetters
from jobs.dependencies import State
from jobs.metrics import Metrics
from jobs.reaper import reap_forever
from jobs.routes import admin, jobs
from jobs.sealing import Sealer
from jobs.settings import Settings
from jobs.showing import Showing
from jobs.store import JobStore
from jobs.transitions import Bounds, Transitions
from jobs.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


def create_app(
    settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None, meter: Meter | None = None
) -> FastAPI:
    """Build the service. Nothing is opened before its lifespan; the store may come later than it."""
    settings = settings or load(Settings)
    provider = tracer_provider or traces.provider_from_environment("jobs")
    health = Health()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            redis: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(close, redis)
            health.add_shared("state_store", lambda: is_reachable(redis))
            metrics = Metrics(meter or NoOpMeter("jobs"))
            state = _state(settings, redis, metrics, StoreSpans("state", provider, meter))
            figures = Figures(state["store"].figures)
            await stack.enter_async_context(figures.watching())
            metrics.observe_api(state["transitions"], figures)
            reaping = reap_forever(state["transitions"], state["store"], interval_s=settings.reap_interval_s)
            await stack.enter_async_context(running(reaping))
            await stack.enter_async_context(running(state["watch"].run()))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield state
        traces.shut_down(provider, settings.flush_share_s)

    routers = [jobs.router, admin.router]
    return frame("jobs", lifespan=lifespan, health=health, routers=routers, tracer_provider=provider, meter=meter)


def _state(settings: Settings, redis: Redis, metrics: Metrics, spans: StoreSpans) -> State:
    sealer = Sealer(revealed(settings.seal_secret, settings.seal_secret_previous))
    store = JobStore(redis, max_bytes=settings.max_bytes, spans=spans)
    transitions = Transitions(redis, max_bytes=store.max_bytes, spans=spans, note_end=metrics.ended)
    return State(
        settings=settings,
        verifier=HopVerifier(revealed(settings.hop_secret, settings.hop_secret_previous), "jobs"),
        sealer=sealer,
        store=store,
        transitions=transitions,
        bounds=Bounds(settings.max_open_per_tenant, settings.max_open),
        watch=Watch(store, interval_s=settings.watch_interval_s),
        showing=Showing(store, sealer),
        dead_letters=DeadLetters(store, transitions, sealer, settings),
    )
