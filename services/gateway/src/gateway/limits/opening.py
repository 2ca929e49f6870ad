"""Puts the parts of the limits together, within the lifespan."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from common.stores import close, connect, is_reachable
from common.telemetry.spans import StoreSpans
from gateway.limits.learning import Experience
from gateway.limits.ledger import Ledger
from gateway.limits.limiter import Limiter
from gateway.limits.local import LocalLimits
from gateway.limits.settling import Settling
from gateway.limits.store import LimitsStore

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider

    from common.health import Health
    from gateway.catalogue import ModelCatalogue

logger = logging.getLogger(__name__)


async def open_limits(  # noqa: PLR0913  # all but two by keyword
    stack: AsyncExitStack,
    url: str | None,
    *,
    replicas: int,
    catalogue: ModelCatalogue,
    health: Health,
    meter: Meter | None = None,
    provider: TracerProvider | None,
) -> Limiter:
    """Connect to the *limits* store at `url` and start what works in the background; without one, limit alone."""
    local, experience = LocalLimits(replicas), Experience()
    if url is None:
        logger.warning("limits_are_local", extra={"expected_replicas": replicas})
        return Limiter(catalogue, local, experience, Ledger(None), replicas=replicas)
    client = connect(url)
    stack.push_async_callback(close, client)
    health.add_optional("limits_store", lambda: is_reachable(client))
    spans = StoreSpans("limits", provider, meter)
    store = LimitsStore(client, spans=spans)
    await stack.enter_async_context(store.working())
    ledger, settling = Ledger(store, spans=spans), Settling(store, spans=spans)
    await stack.enter_async_context(ledger.working())
    await stack.enter_async_context(settling.working())
    return Limiter(catalogue, local, experience, ledger, store, settling, replicas=replicas, spans=spans)
