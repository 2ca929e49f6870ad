"""`python -m jobs.worker` runs jobs. It is a small server as well, whose only routes are those of health."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry.metrics import NoOpMeter

from common.background import running
from common.health import Health
from common.http_client import create_client
from common.identity import HopSigner
from common.server import draining, run
from common.service import frame
from common.settings import load, revealed
from common.stores import close, connect, is_reachable
from common.telemetry import traces
from common.telemetry.spans import StoreSpans
from jobs.execution import Execution
from jobs.hints import Hints
from jobs.metrics import Metrics
from jobs.reaper import reap_forever
from jobs.replay import Replayer
from jobs.runner import Runner
from jobs.sealing import Sealer
from jobs.settings import WorkerSettings
from jobs.store import JobStore
from jobs.tracing import Tracing
from jobs.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx2
    from fastapi import FastAPI
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


def create_app(
    settings: WorkerSettings | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter: Meter | None = None,
    create_client: Callable[..., httpx2.AsyncClient] = create_client,
) -> FastAPI:
    """Build the worker. It runs jobs as long as its lifespan lasts."""
    settings = settings or load(WorkerSettings)
    provider = tracer_provider or traces.provider_from_environment("worker")
    health = Health()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            redis: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(close, redis)
            health.add_shared("state_store", lambda: is_reachable(redis))
            spans = StoreSpans("state", provider, meter)
            store = JobStore(redis, max_bytes=settings.max_bytes, spans=spans)
            metrics = Metrics(meter or NoOpMeter("worker"))
            transitions = Transitions(redis, max_bytes=store.max_bytes, spans=spans, note_end=metrics.ended)
            client = create_client(base_url=settings.gateway_url, tracer_provider=provider, meter=meter)
            execution = Execution(
                Replayer(
                    await stack.enter_async_context(client),
                    HopSigner(settings.gateway_hop_secret.get_secret_value(), "gateway"),
                    max_result_bytes=settings.max_result_bytes,
                ),
                transitions,
                Sealer(revealed(settings.seal_secret, settings.seal_secret_previous)),
                Tracing(provider),
                settings,
            )
            hints = await stack.enter_async_context(Hints(settings.state_url.get_secret_value()))
            reaping = reap_forever(transitions, store, interval_s=settings.reap_interval_s)
            await stack.enter_async_context(running(reaping))
            runner = Runner(transitions, store, hints, execution.run, settings, note_wait=metrics.waited)
            metrics.observe_worker(transitions, runner)
            await stack.enter_async_context(runner.running())
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield
        traces.shut_down(provider, settings.flush_share_s)

    return frame("worker", lifespan=lifespan, health=health, routers=[], tracer_provider=provider, meter=meter)


if __name__ == "__main__":
    run("worker", WorkerSettings, create_app)
