"""Keeps the key directory useful in an outage of the store, and the store's notes of when each key was last used.

"Seen in the last 10 minutes" means by the fleet: each replica notes the keys that it saw, in batches, and reads the
records of those that others saw. So a key works during an outage on a replica that it never met.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from common.background import end
from gateway.access import key_store
from gateway.access.key_directory import REMEMBERED, STALE_S
from gateway.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from gateway.access.key_directory import KeyDirectory, Known
    from gateway.store_breaker import StoreBreaker

logger = logging.getLogger(__name__)

ROUND_S = 5
"""Between two rounds. A key is known to all replicas two rounds after its first request at the latest."""
CONFIRM_S = 120
"""Records that are older than this are read again, so that any of them is good for 8 minutes of an outage."""
READ_A_ROUND = 1_000
NOTED_MOST = 20_000
"""Keys whose use waits to be noted; more wait for their next request."""


class KeyUpkeep:
    def __init__(
        self,
        store: Redis,
        directory: KeyDirectory,
        breaker: StoreBreaker,
        complete: Callable[[Sequence[str]], Awaitable[list[Known]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`complete` reads the records of many keys, with their tenants."""
        self._store = store
        self._directory = directory
        self._breaker = breaker
        self._complete = complete
        self._clock = clock
        self._used: dict[str, float] = {}

    def note_used(self, kid: str, at: float) -> None:
        """Remember that a key was used (Unix seconds). No I/O: this is the request's path."""
        if kid in self._used or len(self._used) < NOTED_MOST:
            self._used[kid] = at

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Do a round now, if the store is there, and one every five seconds; note what is left at the end."""
        await self.round()
        rounds = asyncio.create_task(self._rounds())
        try:
            yield
        finally:
            await end(rounds)
            with contextlib.suppress(StoreUnavailableError):
                await self._write()

    async def round(self) -> None:
        """Note what was used here; read what others used. A store that fails is left alone."""
        if self._breaker.is_open:
            return
        try:
            await self._write()
            await self._read()
        except StoreUnavailableError as error:
            self._breaker.trip(error.reason)

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                await self.round()
            except Exception as error:  # a background loop has to outlive whatever one round does to it
                logger.exception("key_upkeep_failed", extra={"error_type": type(error).__name__})

    async def _write(self) -> None:
        used, self._used = self._used, {}
        if used:
            try:
                await key_store.note_used(self._store, used)
            except StoreUnavailableError:
                self._used = used | self._used
                raise

    async def _read(self) -> None:
        asked_at = self._clock()
        recent = await key_store.recently_used(self._store, since=time.time() - STALE_S, count=REMEMBERED)
        old = self._directory.older_than(recent, CONFIRM_S)[:READ_A_ROUND]
        if old:
            self._directory.remember(await self._complete(old), asked_at=asked_at)
