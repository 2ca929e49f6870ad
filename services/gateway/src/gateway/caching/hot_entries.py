"""The entries that were read here a moment ago, opened, so that the next hit costs no call and no unsealing.

An entry lives for seconds here and the whole takes a bounded number of bytes. A purge, or a fresh answer stored by
another replica, therefore shows here within that life.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Hit:
    """An opened entry."""

    value: bytes
    age_s: int
    is_remembered: bool = False
    """It came out of this process's memory."""


class HotEntries:
    """Keyed by tenant *and* fingerprint, although the fingerprint holds the tenant already."""

    def __init__(self, *, life_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._life_s = life_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], tuple[float, Hit]] = OrderedDict()
        self._bytes = 0
        self.hits = 0

    def get(self, tenant: str, name: str) -> Hit | None:
        found = self._entries.get((tenant, name))
        if found is None:
            return None
        read_at, hit = found
        elapsed_s = self._clock() - read_at
        if elapsed_s >= self._life_s:
            self.forget(tenant, name)
            return None
        self.hits += 1
        return Hit(hit.value, hit.age_s + int(elapsed_s), is_remembered=True)

    def remember(self, tenant: str, name: str, hit: Hit) -> None:
        size = len(hit.value)
        if self._life_s <= 0 or size > self._max_bytes // 4:
            return
        self.forget(tenant, name)
        self._entries[tenant, name] = (self._clock(), hit)
        self._bytes += size
        while self._bytes > self._max_bytes:  # all live equally long, so the oldest is the next to die anyway
            _, (_, oldest) = self._entries.popitem(last=False)
            self._bytes -= len(oldest.value)

    def forget(self, tenant: str, name: str) -> None:
        found = self._entries.pop((tenant, name), None)
        if found is not None:
            self._bytes -= len(found[1].value)

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0
