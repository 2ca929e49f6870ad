"""The gateway: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx2

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
from gateway.cache_client import CacheClient
from gateway.completions import Completions
from gateway.dependencies import State
from gateway.governor import Governor
from gateway.idempotency.keyed_requests import KeyedRequests
from gateway.idempotency.records import Keeping, Records
from gateway.inference_client import InferenceClient
from gateway.key_store import fetch_key
from gateway.routes import admin, generate, openai
from gateway.sealing import Sealer
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


def create_app(settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """Build the service. Nothing is opened before its lifespan; stores and services may come later than it."""
    settings = settings or load(Settings)
    provider = tracer_provider or telemetry.provider_from_environment("gateway")
    health = Health()
    shedder = Shedder(max_requests=settings.max_requests, max_body_bytes=settings.max_body_bytes_in_flight)
    turnstile = Turnstile(settings.max_concurrency)
    turnstile.is_batch_shed = lambda: shedder.is_batch_shed

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(store.aclose)
            health.add_shared("state_store", lambda: is_reachable(store))
            state = await _open(stack, settings, store, provider, turnstile)
            await stack.enter_async_context(watching(shedder, memory_gauge(settings.memory_limit_bytes)))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield state
        telemetry.shut_down(provider, settings.flush_timeout_s)

    routers = [generate.router, openai.router, *([admin.router] if settings.admin_key is not None else [])]
    return frame(
        "gateway",
        lifespan=lifespan,
        health=health,
        routers=routers,
        tracer_provider=provider,
        edge=True,
        shedder=shedder,
    )


async def _open(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    store: Redis,
    provider: TracerProvider | None,
    turnstile: Turnstile,
) -> State:
    sealer = Sealer(settings.seal_secret.get_secret_value())
    cache = CacheClient(
        await stack.enter_async_context(
            create_client(
                base_url=settings.cache_url,
                # Of every step of a put. A get has one budget for the whole; a tighter one for connecting would fail
                # in every burst that opens connections, and five failures put the cache at rest.
                timeout=httpx2.Timeout(settings.cache_put_timeout_s),
                tracer_provider=provider,
            )
        ),
        HopSigner(settings.cache_hop_secret.get_secret_value(), "cache"),
        sealer,
        timeout_s=settings.cache_timeout_s,
        put_queue=settings.cache_put_queue,
    )
    await stack.enter_async_context(cache.writing(settings.cache_put_timeout_s))
    inference = InferenceClient(
        await stack.enter_async_context(create_client(base_url=settings.inference_url, tracer_provider=provider)),
        HopSigner(settings.inference_hop_secret.get_secret_value(), "inference"),
        turnstile,
    )
    return State(
        settings=settings,
        store=store,
        authenticator=Authenticator(
            lambda kid: fetch_key(store, kid), revealed(settings.key_pepper, settings.key_pepper_previous)
        ),
        inference=inference,
        completions=Completions(
            cache,
            inference,
            fingerprint_key=sealer.fingerprint_key,
            entry_ttl_s=settings.entry_ttl_s,
            max_entry_bytes=settings.max_entry_bytes,
        ),
        governor=Governor(await _keyed_requests(stack, settings, store, sealer)),
    )


async def _keyed_requests(
    stack: contextlib.AsyncExitStack, settings: Settings, store: Redis, sealer: Sealer
) -> KeyedRequests:
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
