"""The gateway: where its parts meet."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import httpx2

from common import telemetry
from common.health import Health
from common.http_client import create_client
from common.identity import HopSigner, HopVerifier
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.stores import connect, is_reachable
from gateway.authentication import Authenticator
from gateway.cache_client import CacheClient
from gateway.completions import Completions
from gateway.dependencies import State
from gateway.governor import Governor
from gateway.inference_client import InferenceClient
from gateway.jobs_client import JobsClient
from gateway.key_store import fetch_key
from gateway.replays import ReplayAuthenticator, is_workers
from gateway.routes import admin, generate, jobs, openai
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
    workers = _verifier_of_workers(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(store.aclose)
            health.add_shared("state_store", lambda: is_reachable(store))
            state = await _open(stack, settings, store, provider)
            state["jobs"] = await _open_jobs(stack, settings, provider)
            if workers is not None:
                state["replays"] = ReplayAuthenticator(workers, lambda kid: fetch_key(store, kid))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield state
        telemetry.shut_down(provider, settings.flush_timeout_s)

    routers = [generate.router, openai.router, *([admin.router] if settings.admin_key is not None else [])]
    if settings.jobs_hop_secret is not None:
        routers += [jobs.router, *([jobs.admin_router] if settings.admin_key is not None else [])]
    return frame(
        "gateway",
        lifespan=lifespan,
        health=health,
        routers=routers,
        tracer_provider=provider,
        edge=True,
        is_ours=None if workers is None else functools.partial(is_workers, workers),
    )


def _verifier_of_workers(settings: Settings) -> HopVerifier | None:
    secrets = revealed(settings.hop_secret, settings.hop_secret_previous)
    return HopVerifier(secrets, "gateway") if secrets else None


async def _open_jobs(
    stack: contextlib.AsyncExitStack, settings: Settings, provider: TracerProvider | None
) -> JobsClient | None:
    if settings.jobs_hop_secret is None:
        return None
    client = await stack.enter_async_context(create_client(base_url=settings.jobs_url, tracer_provider=provider))
    return JobsClient(client, HopSigner(settings.jobs_hop_secret.get_secret_value(), "jobs"))


async def _open(
    stack: contextlib.AsyncExitStack, settings: Settings, store: Redis, provider: TracerProvider | None
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
        governor=Governor(),
        jobs=None,
        replays=None,
    )
