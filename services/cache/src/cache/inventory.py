"""What an operator may see of the entries, and their purge by tenant, model or age.

Both walk the keys in small steps (SCAN), so that the store goes on answering meanwhile; neither keeps an index, which
the store might forget.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict, cast

from cache import names
from cache.errors import store_errors
from common.telemetry.spans import UNTRACED, StoreSpans

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

KEYS_A_STEP = 500
COUNTERS = ("hits", "misses", "follows", "stored")
MOST_TENANTS = 10_000
_STORED_AT = struct.Struct(">d")


@dataclass(frozen=True, slots=True)
class StoreState:
    keys: int
    """Entries, and with them the few keys of flights and statistics."""
    used_bytes: int
    max_bytes: int
    evicted_keys: int
    """Since the store began."""


class Purged(TypedDict):
    deleted: int
    is_complete: bool
    """False: the time for one call was up; the same call again goes on."""


class Inventory:
    """Every method raises `StoreUnavailable`."""

    def __init__(
        self,
        store: Redis,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        spans: StoreSpans = UNTRACED,
    ) -> None:
        self._spans = spans
        self._store = store
        self._wall_clock = wall_clock
        self._clock = clock

    async def figures(self) -> StoreState:
        with store_errors(), self._spans.in_background("figures"):
            info: dict[str, Any] = await self._store.info()
            keys = await self._store.dbsize()
        return StoreState(
            keys=keys,
            used_bytes=info.get("used_memory", 0),
            max_bytes=info.get("maxmemory", 0),
            evicted_keys=info.get("evicted_keys", 0),
        )

    async def statistics(self) -> dict[str, Any]:
        """Of all replicas, since each tenant's first request or 30 days; what the store forgot is not in it."""
        tenants: dict[str, dict[str, int]] = {}
        figures = await self.figures()
        with store_errors(), self._spans.in_background("statistics"):
            async for name in self._store.scan_iter(match=names.counters("*"), count=KEYS_A_STEP):
                counted = await self._store.hgetall(name)
                counters = {key.decode(): int(value) for key, value in cast("dict[bytes, bytes]", counted).items()}
                tenants[names.tenant_of(name.decode())] = {what: counters.get(what, 0) for what in COUNTERS}
                if len(tenants) >= MOST_TENANTS:
                    break
        total = {what: sum(counters[what] for counters in tenants.values()) for what in COUNTERS}
        return {
            "total": total,
            "tenants": tenants,
            "store": asdict(figures),
        }

    async def purge(
        self, *, tenant: str | None = None, model: str | None = None, older_than_s: float | None = None, within_s: float
    ) -> Purged:
        """Delete the entries to which all that is given applies; at most `within_s`."""
        give_up_at = self._clock() + within_s
        pattern = names.entries_like(tenant, model)
        deleted, cursor = 0, 0
        with store_errors(), self._spans.in_background("purge"):
            while True:
                cursor, seen = await self._store.scan(cursor, match=pattern, count=KEYS_A_STEP)
                found = cast("list[bytes]", seen)  # typed for text as well
                doomed = found if older_than_s is None else await self._older(found, older_than_s)
                if doomed:
                    deleted += int(await self._unlink(doomed))
                if cursor == 0:
                    return Purged(deleted=deleted, is_complete=True)
                if self._clock() >= give_up_at:
                    return Purged(deleted=deleted, is_complete=False)
                await asyncio.sleep(0)  # others' look-ups go in between

    async def _older(self, found: list[bytes], older_than_s: float) -> list[bytes]:
        async with self._store.pipeline(transaction=False) as pipeline:
            for name in found:
                pipeline.getrange(name, 0, _STORED_AT.size - 1)
            heads: list[bytes] = await pipeline.execute()
        before = self._wall_clock() - older_than_s
        return [
            name
            for name, head in zip(found, heads, strict=True)
            if len(head) == _STORED_AT.size and _STORED_AT.unpack(head)[0] < before
        ]

    async def _unlink(self, doomed: list[bytes]) -> int:
        async with self._store.pipeline(transaction=False) as pipeline:  # one by one: they may be in several slots
            for name in doomed:
                pipeline.unlink(name)
            return sum(await pipeline.execute())
