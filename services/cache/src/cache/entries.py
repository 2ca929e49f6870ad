"""Entries in the *cache* store: a time of storing and opaque bytes, with a life.

The tenant in the name comes from the caller's verified token, so one tenant's fingerprint never names another's entry.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cache import names, scripts
from cache.errors import store_errors
from common.telemetry.spans import UNTRACED, StoreSpans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio import Redis

ENDED_STAYS_MS = 5_000
"""How long an ended flight can be read by those who are slow to learn of its end."""
_STORED_AT = struct.Struct(">d")


@dataclass(frozen=True, slots=True)
class Entry:
    value: bytes
    age_s: int


class Entries:
    """Every method raises `StoreUnavailable`."""

    def __init__(
        self, store: Redis, *, wall_clock: Callable[[], float] = time.time, spans: StoreSpans = UNTRACED
    ) -> None:
        self.lookups = Counter(dict.fromkeys(("hit", "lead", "follow", "none"), 0))
        """By what was found."""
        self._store = store
        self._wall_clock = wall_clock
        self._spans = spans
        self._put = scripts.load(store, "put")

    async def get(self, tenant: str, fingerprint: str) -> Entry | None:
        with store_errors(), self._spans.operation("get"):
            entry = self.read(cast("bytes | None", await self._store.get(names.entry(tenant, fingerprint))))
        self._count(entry)
        return entry

    async def get_many(
        self, tenant: str, fingerprints: Sequence[str], *, max_age_s: float | None = None
    ) -> list[Entry | None]:
        """An entry that is older is none."""
        with store_errors(), self._spans.operation("get_many"):
            found: list[Any] = await self._store.mget(
                [names.entry(tenant, fingerprint) for fingerprint in fingerprints]
            )
        read = (self.read(data) for data in found)
        entries = [entry if entry and (max_age_s is None or entry.age_s <= max_age_s) else None for entry in read]
        for entry in entries:
            self._count(entry)
        return entries

    async def put(self, tenant: str, fingerprint: str, value: bytes, *, ttl_s: int, flight: str = "") -> None:
        """Store it; `flight` names the one that its writer led, which ends with this."""
        keys = [names.entry(tenant, fingerprint), *names.flight(tenant, fingerprint, flight), names.counters(tenant)]
        with store_errors(), self._spans.operation("put"):
            await self._put(keys, [_STORED_AT.pack(self._wall_clock()) + value, ttl_s, flight, ENDED_STAYS_MS])

    async def put_many(self, tenant: str, values: Sequence[tuple[str, bytes]], *, ttl_s: int) -> None:
        stored_at = _STORED_AT.pack(self._wall_clock())
        with store_errors(), self._spans.operation("put_many"):
            async with self._store.pipeline(transaction=False) as pipeline:
                for fingerprint, value in values:
                    pipeline.set(names.entry(tenant, fingerprint), stored_at + value, ex=ttl_s)
                pipeline.hincrby(names.counters(tenant), "stored", len(values))
                await pipeline.execute()

    async def delete(self, tenant: str, fingerprint: str) -> bool:
        """Whether there was one."""
        with store_errors(), self._spans.operation("delete"):
            return bool(await self._store.delete(names.entry(tenant, fingerprint)))

    def _count(self, entry: Entry | None) -> None:
        self.lookups["none" if entry is None else "hit"] += 1

    def read(self, data: bytes | None) -> Entry | None:
        if data is None or len(data) < _STORED_AT.size:
            return None
        (stored_at,) = _STORED_AT.unpack_from(data)
        return Entry(data[_STORED_AT.size :], max(0, int(self._wall_clock() - stored_at)))
