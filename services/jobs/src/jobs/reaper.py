"""Does what time alone does: ends leases, delays, deadlines and old records. Runs on every replica, API and worker, so
that it waits for no traffic and for no particular process; two at once change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jobs.errors import StoreUnavailable
from jobs.transitions import REAPED_AT_ONCE

if TYPE_CHECKING:
    from jobs.store import JobStore
    from jobs.transitions import Transitions

logger = logging.getLogger(__name__)

_MEMORY_EVERY = 10
"""Rounds between two looks at the store's maxmemory."""


async def reap_forever(transitions: Transitions, store: JobStore, *, interval_s: float) -> None:
    """Never returns and never raises, whatever the store does."""
    rounds = 0
    is_away = False
    while True:
        try:
            if rounds % _MEMORY_EVERY == 0:
                await store.learn_memory()
            await reap_all(transitions)
            rounds += 1
            is_away = False
        except StoreUnavailable as error:
            if not is_away:
                logger.warning("job_store_unavailable", extra={"reason": error.reason})
            is_away = True
        except Exception:  # a background loop: it must not end, whatever happened in one round
            logger.exception("reaper_failed")
        await asyncio.sleep(interval_s)


async def reap_all(transitions: Transitions) -> None:
    """Reap until nothing is due. Raises `StoreUnavailable`."""
    while True:
        reaped = await transitions.reap()
        if reaped.lost:
            logger.warning("job_leases_lost", extra={"count": reaped.lost})
        if max(reaped.expired, reaped.lost, reaped.ready, reaped.ended) < REAPED_AT_ONCE:
            return
