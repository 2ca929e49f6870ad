"""Wakes those in this process who wait for a flight to change, on any replica's doing: hints over pub/sub.

A bell may get lost with a connection, so nobody waits for one without looking again by himself a little later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from cache.names import BELLS
from common.background import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

LISTEN_S = 1.0
RETRY_S = 0.5


class Bells:
    def __init__(self, store: Redis) -> None:
        self._store = store
        self._waiting: dict[bytes, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def at(self, *what: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever any of that changes; whoever waits clears it *before* looking."""
        bell = asyncio.Event()
        names = [one.encode() for one in what]
        for name in names:
            self._waiting.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            for name in names:
                self._waiting[name].discard(bell)
                if not self._waiting[name]:
                    del self._waiting[name]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            await end(listener)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._store.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(BELLS)
                    while True:
                        message = await subscription.get_message(timeout=LISTEN_S)
                        if message is not None:
                            for bell in self._waiting.get(message["data"], ()):
                                bell.set()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # a background loop has to outlive whatever one message does to it
                logger.exception("bells_failed", extra={"error_type": type(error).__name__})
                await asyncio.sleep(RETRY_S)


async def rung(bell: asyncio.Event, timeout_s: float) -> None:
    """Wait for the bell, or for the time to look by oneself."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await bell.wait()
