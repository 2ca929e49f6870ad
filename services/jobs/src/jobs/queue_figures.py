"""What the queue looks like, looked at now and then, so that nobody who wants to know has to wait for the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.background import end
from jobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

logger = logging.getLogger(__name__)
INTERVAL_S = 5.0
LOOK_S = 1.0
"""A look that takes longer is given up: it is several calls, each with its own bound."""


@dataclass(frozen=True, slots=True)
class Figures:
    lengths: Mapping[str, int]
    """Open jobs by state: `queued`, `running`, `delayed`."""
    oldest_age_s: float
    """How long the job that waits longest has been ready to run; 0 when none waits."""
    dead_letters: int


class QueueFigures:
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
                logger.exception("queue_figures_failed")
            await asyncio.sleep(self._interval_s)
