"""What the store says of itself, looked at now and then, so that nobody who wants to know has to wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import StoreUnavailable
from common.background import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

logger = logging.getLogger(__name__)
INTERVAL_S = 5.0
LOOK_S = 1.0
"""A look that takes longer is given up: it may be several calls, each with its own bound."""


@dataclass(frozen=True, slots=True)
class Figures:
    keys: int
    """Entries, and with them the few keys of flights and statistics."""
    used_bytes: int
    max_bytes: int
    evicted_keys: int
    """Since the store began."""


class StoreFigures:
    def __init__(self, look: Callable[[], Awaitable[Figures]], *, interval_s: float = INTERVAL_S) -> None:
        """`look` may raise `StoreUnavailable`."""
        self.newest: Figures | None = None
        """None: the store does not answer, or has not been asked yet. Old figures would look like good ones."""
        self._look = look
        self._interval_s = interval_s

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            await end(watch)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    self.newest = await self._look()
            except (StoreUnavailable, TimeoutError):
                self.newest = None
            except Exception:  # a background loop: one bad look must not be the last
                self.newest = None
                logger.exception("store_figures_failed")
            await asyncio.sleep(self._interval_s)
