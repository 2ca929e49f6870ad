"""Entries in the *cache* store: `v1:entry:{tenant}:{fingerprint}`, a time of storing and opaque bytes, with a TTL.

The tenant in the name comes from the caller's verified token, so one tenant's fingerprint never names another's entry.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from redis.exceptions import RedisError

from cache.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

_STORED_AT = struct.Struct(">d")


@dataclass(frozen=True, slots=True)
class Entry:
    value: bytes
    age_s: int


class Entries:
    def __init__(self, store: Redis, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._wall_clock = wall_clock

    async def get(self, tenant: str, fingerprint: str) -> Entry | None:
        """Raises `StoreUnavailable`."""
        try:
            data = cast("bytes | None", await self._store.get(_name(tenant, fingerprint)))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable from error
        if data is None or len(data) < _STORED_AT.size:
            return None
        (stored_at,) = _STORED_AT.unpack_from(data)
        return Entry(data[_STORED_AT.size :], max(0, int(self._wall_clock() - stored_at)))

    async def put(self, tenant: str, fingerprint: str, value: bytes, *, ttl_s: int) -> None:
        """Raises `StoreUnavailable`."""
        data = _STORED_AT.pack(self._wall_clock()) + value
        try:
            await self._store.set(_name(tenant, fingerprint), data, ex=ttl_s)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable from error

    async def delete(self, tenant: str, fingerprint: str) -> bool:
        """Whether there was one. Raises `StoreUnavailable`."""
        try:
            return bool(await self._store.delete(_name(tenant, fingerprint)))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable from error


def _name(tenant: str, fingerprint: str) -> str:
    return f"v1:entry:{{{tenant}}}:{fingerprint}"
