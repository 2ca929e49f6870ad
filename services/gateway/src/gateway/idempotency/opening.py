"""Opens what answers requests with an `Idempotency-Key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.settings import revealed
from gateway.caching.sealing import Sealer
from gateway.idempotency.keyed_requests import KeyedRequests
from gateway.idempotency.records import Keeping, Records

if TYPE_CHECKING:
    import contextlib

    from redis.asyncio import Redis

    from common.telemetry.spans import StoreSpans
    from gateway.settings import Settings
    from gateway.store_breaker import StoreBreaker


async def open_keyed_requests(
    stack: contextlib.AsyncExitStack, settings: Settings, store: Redis, breaker: StoreBreaker, spans: StoreSpans
) -> KeyedRequests:
    """They end with `stack`: what still runs is given up, so that another replica takes it over at once."""
    sealer = Sealer(*revealed(settings.seal_secret, settings.seal_secret_previous))
    keeping = Keeping(
        lease_s=settings.idempotency_lease_s,
        keep_s=settings.idempotency_keep_s,
        max_answer_bytes=settings.idempotency_max_answer_bytes,
        tenant_bytes=settings.idempotency_tenant_bytes,
        total_bytes=settings.idempotency_total_bytes,
    )
    records = Records(store, sealer, keeping, breaker=breaker, spans=spans)
    keyed_requests = KeyedRequests(records, secret=settings.seal_secret.get_secret_value())
    await stack.enter_async_context(keyed_requests.closing())
    return keyed_requests
