"""Leaves the *state* store alone once it failed, until it answers again. No request ever waits to find out.

One for all who ask it, keys and kept answers: what one of them finds out, the other need not.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from common.background import end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

REST_S = 0.5
"""Between two probes: what a healed store may stay unused."""


class StoreBreaker:
    """Open from a failure until a probe in the background succeeds: an outage costs a request one timeout, once."""

    def __init__(
        self, probe: Callable[[], Awaitable[bool]], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._probe = probe
        self._sleep = sleep
        self._healing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._healing is not None

    def trip(self, reason: str) -> None:
        """Note a failure. `reason` goes to the log, once for an outage."""
        if self._healing is None:
            logger.warning("state_store_unavailable", extra={"reason": reason})
            self._healing = asyncio.create_task(self._heal())

    async def close(self) -> None:
        if self._healing is not None:
            await end(self._healing)

    async def _heal(self) -> None:
        await self._sleep(REST_S)
        while not await self._probe():
            await self._sleep(REST_S)
        logger.info("state_store_available")
        self._healing = None
