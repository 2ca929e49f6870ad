"""The cache service: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import FastAPI

from cache.dependencies import State
from cache.entries import Entries
from cache.routes import entries
from cache.settings import Settings
from common import errors, telemetry
from common.health import Health
from common.identity import HopVerifier
from common.middleware import RequestScope
from common.server import draining
from common.settings import load
from common.stores import connect, is_reachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


def create_app(settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None) -> FastAPI:
    """Build the service. Nothing is opened before its lifespan; the store may come later than it."""
    settings = settings or load(Settings)
    provider = tracer_provider or telemetry.provider_from_environment("cache")
    health = Health()
    secrets = [settings.hop_secret, *([settings.hop_secret_previous] if settings.hop_secret_previous else [])]

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.store_url.get_secret_value())
            stack.push_async_callback(store.aclose)
            health.add_shared("cache_store", lambda: is_reachable(store))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield State(
                settings=settings,
                verifier=HopVerifier([secret.get_secret_value() for secret in secrets], "cache"),
                entries=Entries(store),
            )
        telemetry.shut_down(provider, settings.flush_timeout_s)

    app = FastAPI(
        title="Spillway cache",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    errors.install(app)
    app.add_middleware(RequestScope)
    app.include_router(health.router())
    app.include_router(entries.router)
    telemetry.instrument(app, provider)
    return app
