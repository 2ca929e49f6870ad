"""The gateway: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from common import telemetry
from common.health import Health
from common.http_client import create_client
from common.identity import HopSigner
from common.overload.gate import watching
from common.overload.memory import memory_gauge
from common.overload.shedder import Shedder
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.stores import connect, is_reachable
from gateway.admission.turnstile import Turnstile
from gateway.authentication import Authenticator
from gateway.caching import open_completions
from gateway.catalogue import ModelCatalogue
from gateway.dependencies import State
from gateway.governor import Governor
from gateway.idempotency.keyed_requests import KeyedRequests
from gateway.idempotency.records import Keeping, Records
from gateway.inference_client import InferenceClient
from gateway.key_store import fetch_key
from gateway.limits.opening import open_limits
from gateway.routes import admin, admin_cache, admin_usage, generate, openai
from gateway.sealing import Sealer
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


ADMIN = (admin.router, admin_cache.router, admin_usage.router)


def create_app(settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """Build the service. Nothing is opened before its lifespan; stores and services may come later than it."""
    settings = settings or load(Settings)
    provider = tracer_provider or telemetry.provider_from_environment("gateway")
    health = Health()
    shedder = Shedder(
        max_requests=settings.max_requests,
        max_body_bytes=settings.max_body_bytes_in_flight,
        max_lag_s=settings.max_lag_s,
    )
    turnstile = Turnstile(settings.max_concurrency)
    turnstile.is_batch_shed = lambda: shedder.is_batch_shed

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(store.aclose)
            health.add_shared("state_store", lambda: is_reachable(store))
            state = await _open(stack, settings, store, provider, health=health, turnstile=turnstile)
            await stack.enter_async_context(watching(shedder, memory_gauge(settings.memory_limit_bytes)))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield state
        telemetry.shut_down(provider, settings.flush_timeout_s)

    routers = [generate.router, openai.router, *(ADMIN if settings.admin_key is not None else ())]
    return frame(
        "gateway",
        lifespan=lifespan,
        health=health,
        routers=routers,
        tracer_provider=provider,
        edge=True,
        shedder=shedder,
    )


async def _open(  # noqa: PLR0913  # here the parts meet
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    store: Redis,
    provider: TracerProvider | None,
    *,
    health: Health,
    turnstile: Turnstile,
) -> State:
    signer = HopSigner(settings.inference_hop_secret.get_secret_value(), "inference")
    inference = InferenceClient(
        await stack.enter_async_context(create_client(base_url=settings.inference_url, tracer_provider=provider)),
        signer,
        turnstile,
    )
    # Untraced: nobody's request asks for it.
    catalogue = ModelCatalogue(await stack.enter_async_context(create_client(base_url=settings.inference_url)), signer)
    await stack.enter_async_context(catalogue.kept_fresh())
    limits_url = None if settings.limits_url is None else settings.limits_url.get_secret_value()
    limiter = await open_limits(
        stack, limits_url, replicas=settings.expected_replicas, catalogue=catalogue, health=health
    )
    return State(
        settings=settings,
        store=store,
        authenticator=Authenticator(
            lambda kid: fetch_key(store, kid), revealed(settings.key_pepper, settings.key_pepper_previous)
        ),
        inference=inference,
        completions=await open_completions(stack, settings, inference, provider, revision=lambda: catalogue.revision),
        governor=Governor(await _keyed_requests(stack, settings, store), limiter),
        ledger=limiter.ledger,
    )


async def _keyed_requests(stack: contextlib.AsyncExitStack, settings: Settings, store: Redis) -> KeyedRequests:
    sealer = Sealer(*revealed(settings.seal_secret, settings.seal_secret_previous))
    keeping = Keeping(
        lease_s=settings.idempotency_lease_s,
        keep_s=settings.idempotency_keep_s,
        max_answer_bytes=settings.idempotency_max_answer_bytes,
        tenant_bytes=settings.idempotency_tenant_bytes,
        total_bytes=settings.idempotency_total_bytes,
    )
    keyed_requests = KeyedRequests(Records(store, sealer, keeping), secret=settings.seal_secret.get_secret_value())
    await stack.enter_async_context(keyed_requests.closing())
    return keyed_requests
