"""The inference service: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from stamina.instrumentation import set_on_retry_hooks

from common import telemetry
from common.health import Health
from common.http_client import create_client
from common.identity import HopVerifier
from common.overload.gate import watching
from common.overload.memory import memory_gauge
from common.overload.shedder import Shedder
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.sse import MAX_STREAM_BYTES
from inference import bounded
from inference.answers import Answers
from inference.batching import Batcher, Batching
from inference.dependencies import State
from inference.only_target import Router, Target
from inference.routes import openai
from inference.settings import Settings
from inference.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider


def create_app(
    settings: Settings | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> FastAPI:
    """Build the service. Readiness asks no upstream: a model that is away is an answer, not a reason to restart."""
    settings = settings or load(Settings)
    provider = tracer_provider or telemetry.provider_from_environment("inference")
    health = Health()
    in_flight = metrics.get_meter("inference", meter_provider=meter_provider).create_up_down_counter(
        "spillway.inference.in_flight", "{request}", "Requests that are being answered, streams included."
    )
    shedder = Shedder(max_lag_s=settings.max_lag_s)
    set_on_retry_hooks([])  # retries are span events of ours; the default hook would log them a second time

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(create_client())
            client.event_hooks = {"response": [bounded.cap_error]}
            batcher = await stack.enter_async_context(Batcher().running())
            target = Target(
                name="upstream",
                upstream=Upstream(
                    base_url=settings.upstream_base_url,
                    api_key=settings.upstream_api_key.get_secret_value(),
                    client=client,
                    connect_timeout_s=settings.connect_timeout_s,
                ),
                price=None,
                first_event_timeout_s=settings.first_event_timeout_s,
                event_gap_timeout_s=settings.event_gap_timeout_s,
                total_timeout_s=600,
                max_answer_bytes=settings.max_answer_bytes,
                max_stream_bytes=MAX_STREAM_BYTES,
                batching=Batching(),
            )
            await stack.enter_async_context(watching(shedder, memory_gauge()))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield State(
                in_flight=in_flight,
                verifier=HopVerifier(revealed(settings.hop_secret, settings.hop_secret_previous), "inference"),
                answers=Answers(
                    Router(target, settings.max_attempts),
                    batcher,
                    trace.get_tracer("inference", tracer_provider=provider),
                ),
            )
        telemetry.shut_down(provider, settings.flush_timeout_s)

    return frame(
        "inference",
        lifespan=lifespan,
        health=health,
        routers=[openai.router],
        tracer_provider=provider,
        shedder=shedder,
    )
