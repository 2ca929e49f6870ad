"""Which gateways are there: a flight ends with the process that leads it, at whatever moment that dies.

A gateway shows itself by calls that stay open; the system closes them with the process. What this replica of the cache
does not see itself it reads in the store, where each replica keeps noting whom it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING

from cache import names
from cache.errors import StoreUnavailable, store_errors
from common.background import running
from common.telemetry.spans import UNTRACED, StoreSpans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

NOTED_EVERY_S = 0.15
GONE_AFTER_MS = 500
"""Without a note: the replica that saw it stands still, or died as well. A follower's stream looks each 0.25 s, so that
a flight is given up within 0.75 s.
"""
REMEMBERED_MS = 10_000
"""Longer than a flight without its leader. A gateway of which nothing is known is not gone: it may be of a release that
does not show itself, or the store may have forgotten it. Its leases decide.
"""


class Gateways:
    def __init__(self, store: Redis, *, spans: StoreSpans = UNTRACED) -> None:
        self._store = store
        self._spans = spans
        self._here: Counter[str] = Counter()
        """Calls that are open here, by gateway."""

    @contextlib.contextmanager
    def seen(self, gateway: str) -> Iterator[None]:
        """While one of its calls is open here."""
        self._here[gateway] += 1
        try:
            yield
        finally:
            self._here[gateway] -= 1
            if not self._here[gateway]:
                del self._here[gateway]

    async def lose(self, gateway: str) -> None:
        """A call of its broke off: it is gone, unless another one is open here. Raises `StoreUnavailable`."""
        if gateway in self._here:
            return
        with store_errors(), self._spans.in_background("lose"):
            await self._store.set(names.gateway(gateway), b"", px=REMEMBERED_MS // 2)
            await self._store.publish(names.BELLS, gateway)

    async def is_gone(self, gateway: str) -> bool:
        """Raises `StoreUnavailable`."""
        if gateway in self._here:
            return False
        with store_errors(), self._spans.in_background("is_gone"):
            left_ms = int(await self._store.pttl(names.gateway(gateway)))
        return 0 <= left_ms < REMEMBERED_MS - GONE_AFTER_MS

    def noting(self) -> AbstractAsyncContextManager[None]:
        """Within: note whom this replica sees."""
        return running(self._note())

    async def _note(self) -> None:
        while True:
            try:
                for gateway in tuple(self._here):
                    with store_errors(), self._spans.in_background("note"):
                        await self._store.set(names.gateway(gateway), b"", px=REMEMBERED_MS)
            except StoreUnavailable:
                pass
            except Exception as error:  # a background loop has to outlive whatever one note does to it
                logger.exception("gateways_not_noted", extra={"error_type": type(error).__name__})
            await asyncio.sleep(NOTED_EVERY_S)
