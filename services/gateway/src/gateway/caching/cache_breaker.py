"""Leaves a cache that fails alone for a while, so that it costs few requests their 50 ms."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

OPENS_AFTER = 5
"""Faults in a row, and"""
OPENS_AFTER_S = 0.5
"""so long without a right answer in time. What a burst of connections makes late, all at once, is over before:
measured, after 64 to 180 ms.
"""
REST_S = 1.0


class CacheBreaker:
    """Closed until five faults in a row over half a second, then open: nobody asks. Every second one probe may, and
    nobody waits for it; its success closes the breaker.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._since = 0.0
        """The first of those."""
        self._probe_at: float | None = None
        self.faults = 0
        self.openings = 0

    @property
    def is_open(self) -> bool:
        return self._probe_at is not None

    def wants_probe(self) -> bool:
        """Whether the time for a probe has come; who is told so makes it, the others are not told before the next."""
        if self._probe_at is None or self._clock() < self._probe_at:
            return False
        self._probe_at = self._clock() + REST_S
        return True

    def fault(self, reason: str) -> None:
        now = self._clock()
        if not self._in_a_row:
            self._since = now
        self.faults += 1
        self._in_a_row += 1
        if self._in_a_row >= OPENS_AFTER and now - self._since >= OPENS_AFTER_S and self._probe_at is None:
            self._probe_at = now + REST_S
            self.openings += 1
            logger.warning("cache_unavailable", extra={"reason": reason, "rest_s": REST_S})

    def success(self) -> None:
        self._in_a_row = 0
        if self._probe_at is not None:
            self._probe_at = None
            logger.info("cache_available_again")
