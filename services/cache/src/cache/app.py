"""The cache service: where its parts meet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry.metrics import NoOpMeter

from cache.bells import Bells
from cache.dependencies import State
from cache.entries import Entries
from cache.flights import Flights
from cache.gateways import Gateways
from cache.inventory import Inventory
from cache.metrics import Metrics
from cache.routes import entries, flights, gateways, inventory, lookups
from cache.settings import Settings
from common.figures import Figures
from common.health import Health
from common.identity import HopVerifier
from common.server import draining
from common.service import frame
from common.settings import load, revealed
from common.stores import close, connect, is_reachable
from common.telemetry import traces
from common.telemetry.spans import StoreSpans

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
    provider = tracer_provider or traces.provider_from_environment("cache")
    health = Health()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.store_url.get_secret_value())
            stack.push_async_callback(close, store)
            health.add_shared("cache_store", lambda: is_reachable(store))
            bells = Bells(store)
            await stack.enter_async_context(bells.listening())
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            spans = StoreSpans("cache", provider, meter)
            kept, stock = Entries(store, spans=spans), Inventory(store, spans=spans)
            leads, callers = Flights(store, kept, spans=spans), Gateways(store, spans=spans)
            await stack.enter_async_context(callers.noting())
            figures = Figures(stock.figures)
            await stack.enter_async_context(figures.watching())
            Metrics(meter or NoOpMeter("cache"), kept, leads, figures)
            yield State(
                settings=settings,
                verifier=HopVerifier(revealed(settings.hop_secret, settings.hop_secret_previous), "cache"),
                entries=kept,
                flights=leads,
                gateways=callers,
                bells=bells,
                inventory=stock,
            )
        traces.shut_down(provider, settings.flush_share_s)

    routers = [lookups.router, entries.lean, entries.router, flights.router, gateways.router, inventory.router]
    return frame("cache", lifespan=lifespan, health=health, routers=routers, tracer_provider=provider, meter=meter)
