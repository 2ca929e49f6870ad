"""What somebody else says of itself, looked at now and then, so that nobody who wants to know has to wait for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from common.background import running
from common.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

logger = logging.getLogger(__name__)
INTERVAL_S = 5.0
LOOK_S = 1.0
"""A look that takes longer is given up: it may be several calls, each with its own bound."""

T = TypeVar("T")


class Figures(Generic[T]):
    def __init__(self, look: Callable[[], Awaitable[T]], *, interval_s: float = INTERVAL_S) -> None:
        """`look` may raise `Unavailable`."""
        self.newest: T | None = None
        """None: nobody answers, or nobody has been asked yet. Old figures would look like good ones."""
        self._look = look
        self._interval_s = interval_s

    def watching(self) -> AbstractAsyncContextManager[None]:
        return running(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    self.newest = await self._look()
            except (Unavailable, TimeoutError):
                self.newest = None
            except Exception:  # a background loop: one bad look must not be the last
                self.newest = None
                logger.exception("figures_failed")
            await asyncio.sleep(self._interval_s)
