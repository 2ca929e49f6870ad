"""Where the parts of the cache and of coalescing meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from common.http_client import create_client
from common.identity import HopSigner
from common.settings import revealed
from gateway.answers.completions import Completions
from gateway.caching.cache_breaker import CacheBreaker
from gateway.caching.cache_client import CacheClient
from gateway.caching.entry_writer import EntryWriter
from gateway.caching.hot_entries import HotEntries
from gateway.caching.sealing import Sealer
from gateway.coalescing.flight_client import FlightClient
from gateway.coalescing.flights import Flights
from gateway.coalescing.presence import shown

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider

    from gateway.inference_client import InferenceClient
    from gateway.settings import Settings


async def open_completions(  # noqa: PLR0913  # here parts meet
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    inference: InferenceClient,
    provider: TracerProvider | None,
    *,
    revision: Callable[[], str],
    meter: Meter | None = None,
) -> Completions:
    """Open what stands between a call and inference; it ends with `stack`, flights first, then what is to be stored."""
    sealer = Sealer(*revealed(settings.seal_secret, settings.seal_secret_previous))
    # Of every step of a put. A look-up has one budget for the whole; a tighter one for connecting would fail in every
    # burst that opens connections, and five failures put the cache at rest.
    timeout = httpx2.Timeout(settings.cache_put_timeout_s)
    cache = CacheClient(
        await stack.enter_async_context(
            create_client(base_url=settings.cache_url, timeout=timeout, tracer_provider=provider, meter=meter)
        ),
        HopSigner(settings.cache_hop_secret.get_secret_value(), "cache"),
        sealer,
        CacheBreaker(),
        timeout_s=settings.cache_timeout_s,
    )
    waits = await stack.enter_async_context(create_client(base_url=settings.cache_url, meter=meter))
    client = FlightClient(waits, cache)
    await stack.enter_async_context(shown(client))  # until what is to be stored is: that ends flights as well
    writer = EntryWriter(
        cache,
        sealer,
        ttl_s=settings.entry_ttl_s,
        max_entry_bytes=settings.max_entry_bytes,
        most_orders=settings.cache_put_queue,
        most_bytes=settings.cache_put_queue_bytes,
    )
    await stack.enter_async_context(writer.writing(settings.cache_put_timeout_s))
    hot = HotEntries(life_s=settings.hot_entries_life_s, max_bytes=settings.hot_entries_bytes)
    flights = Flights(cache, client, sealer, hot)
    await stack.enter_async_context(flights.flying())
    return Completions(
        cache, inference, flights, writer, hot, fingerprint_key=sealer.fingerprint_key, revision=revision
    )
