"""The inference service: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.metrics import NoOpMeter
from stamina.instrumentation import set_on_retry_hooks

from common.health import Health
from common.http_client import create_client
from common.identity import HopVerifier
from common.overload.gate import watching
from common.overload.memory import memory_gauge
from common.overload.shedder import Shedder
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.telemetry import traces
from inference import bounded
from inference.answers import Answers
from inference.batching import Batcher
from inference.catalogue import Batching, TargetSpec, Timeouts
from inference.content_capture import ContentCapture
from inference.dependencies import State
from inference.live_catalogue import LiveCatalogue
from inference.metrics import Metrics
from inference.router import Router
from inference.routes import catalogue, openai
from inference.served_models import ServedModels, Workshop
from inference.settings import Settings
from inference.targets import Policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider


def create_app(
    settings: Settings | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter: Meter | None = None,
) -> FastAPI:
    """Build the service. Readiness asks no upstream: a model that is away is an answer, not a reason to restart."""
    settings = settings or load(Settings)
    provider = tracer_provider or traces.provider_from_environment("inference")
    health = Health()
    shedder = Shedder(max_lag_s=settings.max_lag_s)
    set_on_retry_hooks([])  # retries are span events of ours; the default hook would log them a second time

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            router, live = await _routing(stack, settings, meter)
            metrics = Metrics(meter or NoOpMeter("inference"), router, live)
            await stack.enter_async_context(watching(shedder, memory_gauge()))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            batcher = await stack.enter_async_context(Batcher(metrics.note_items).running())
            yield State(
                verifier=HopVerifier(revealed(settings.hop_secret, settings.hop_secret_previous), "inference"),
                router=router,
                answers=Answers(
                    router,
                    batcher,
                    trace.get_tracer("inference", tracer_provider=provider),
                    metrics.record,
                    ContentCapture(is_on=settings.capture_content, max_bytes=settings.capture_max_bytes),
                ),
            )
        traces.shut_down(provider, settings.flush_share_s)

    return frame(
        "inference",
        lifespan=lifespan,
        health=health,
        routers=[openai.router, catalogue.router],
        tracer_provider=provider,
        meter=meter,
        shedder=shedder,
    )


async def _routing(
    stack: contextlib.AsyncExitStack, settings: Settings, meter: Meter | None
) -> tuple[Router, LiveCatalogue | None]:
    policy = Policy(
        retry_budget=settings.retry_budget,
        throttle_ratio=settings.throttle_ratio,
        min_concurrency=settings.min_concurrency,
        max_answer_bytes=settings.max_answer_bytes,
    )
    client = await stack.enter_async_context(create_client(meter=meter))
    client.event_hooks = {"response": [bounded.cap_error]}
    workshop = Workshop(client, policy)
    if settings.models_file is None:
        return Router(_open_door(workshop, settings), policy, max_attempts=settings.max_attempts), None
    live = LiveCatalogue(settings.models_file, settings.named_secrets(), poll_s=settings.models_poll_s)
    router = Router(workshop.serve(live.current, live.secrets), policy, max_attempts=settings.max_attempts)

    def replace() -> None:
        router.served = workshop.serve(live.current, live.secrets, router.served)

    await stack.enter_async_context(live.watching(lambda _: replace()))
    return router, live


def _open_door(workshop: Workshop, settings: Settings) -> ServedModels:
    key = settings.upstream_api_key
    spec = TargetSpec(
        name="upstream",
        base_url=settings.upstream_base_url or "",
        max_concurrency=10_000,
        batching=Batching(),
        timeouts=Timeouts(
            connect_s=settings.connect_timeout_s,
            first_event_s=settings.first_event_timeout_s,
            gap_s=settings.event_gap_timeout_s,
        ),
    )
    return workshop.open_door(spec, key.get_secret_value() if key is not None else "")
