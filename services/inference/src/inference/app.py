"""The inference service: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import trace
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
from inference.answers import Answers
from inference.dependencies import State
from inference.routes import openai
from inference.settings import Settings
from inference.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider


def create_app(settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """Build the service. Readiness asks no upstream: a model that is away is an answer, not a reason to restart."""
    settings = settings or load(Settings)
    provider = tracer_provider or telemetry.provider_from_environment("inference")
    health = Health()
    shedder = Shedder()
    set_on_retry_hooks([])  # retries are span events of ours; the default hook would log them a second time

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            upstream = Upstream(
                base_url=settings.upstream_base_url,
                api_key=settings.upstream_api_key.get_secret_value(),
                client=await stack.enter_async_context(create_client()),
                connect_timeout_s=settings.connect_timeout_s,
            )
            await stack.enter_async_context(watching(shedder, memory_gauge()))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield State(
                verifier=HopVerifier(revealed(settings.hop_secret, settings.hop_secret_previous), "inference"),
                answers=Answers(upstream, settings, trace.get_tracer("inference", tracer_provider=provider)),
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
