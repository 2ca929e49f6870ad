"""Flights: an answer on its way to one gateway, its lease, and its events for those who wait for the same answer.

All of it opaque and all of it may be forgotten: a lost flight means a call of one's own. Who fetches, who follows and
when it is over is decided by the Lua scripts beside this module, on the store's clock.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from cache import names, scripts
from cache.entries import ENDED_STAYS_MS, Entries, Entry
from cache.errors import store_errors
from common.telemetry.spans import UNTRACED, StoreSpans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis.asyncio import Redis

LEASE_MS = 5_000
FOLLOWER_MS = 3_000
"""A follower that does not read again counts as gone after this: its gateway died."""
MAX_FLIGHT_BYTES = 8 * 1024 * 1024
FRAMES_A_READ = 256

Word = Literal["hit", "lead", "follow", "none"]
State = Literal["open", "ended", "lost"]
Ending = Literal["", "ok", "closed"]


@dataclass(frozen=True, slots=True)
class Found:
    word: Word
    flight: str = ""
    entry: Entry | None = None


class Flights:
    """Every method raises `StoreUnavailable`."""

    def __init__(
        self,
        store: Redis,
        entries: Entries,
        *,
        wall_clock: Callable[[], float] = time.time,
        spans: StoreSpans = UNTRACED,
    ) -> None:
        self.entries = entries
        self.attended = 0
        """Flights whose leaders are here at the moment."""
        self._wall_clock = wall_clock
        self._spans = spans
        self._lookup, self._append, self._read, self._renew, self._release, self._leave = (
            scripts.load(store, name) for name in ("lookup", "append", "read", "renew", "release", "leave")
        )

    async def look_up(  # noqa: PLR0913  # an entry is named by two, and the rest by keyword
        self,
        tenant: str,
        fingerprint: str,
        *,
        own_id: str = "",
        failed_id: str = "",
        max_age_s: float | None = None,
        leads: bool = True,
    ) -> Found:
        """Hit, lead or follow; without `own_id` only hit or none, and none instead of lead for who shall not lead."""
        flight, _, followers = names.flight(tenant, fingerprint, "")
        keys = [names.entry(tenant, fingerprint), flight, followers, names.counters(tenant)]
        age = -1 if max_age_s is None else max_age_s
        with store_errors(), self._spans.operation("look_up"):
            reply = await self._lookup(
                keys, [self._wall_clock(), age, own_id, failed_id, LEASE_MS, FOLLOWER_MS, "1" if leads else ""]
            )
        word = cast("Word", reply[0].decode())
        self.entries.lookups[word] += 1
        if word == "hit":
            return Found(word, entry=self.entries.read(reply[1]))
        return Found(word, reply[1].decode() if len(reply) > 1 else "")

    @contextlib.contextmanager
    def attending(self) -> Iterator[None]:
        """While a leader waits at this replica for what its followers do."""
        self.attended += 1
        try:
            yield
        finally:
            self.attended -= 1

    async def append(  # noqa: PLR0913  # a flight is named by three, and the rest by keyword
        self, tenant: str, fingerprint: str, flight: str, frames: Sequence[bytes], *, first: int, ending: Ending = ""
    ) -> bool:
        """Whether the flight is still the caller's and takes frames."""
        keys = names.flight(tenant, fingerprint, flight)[:2]
        with store_errors(), self._spans.in_background("append"):
            reply = await self._append(
                keys, [flight, first, ending, MAX_FLIGHT_BYTES, LEASE_MS, ENDED_STAYS_MS, *frames]
            )
        return int(reply) == 1

    async def read(
        self, tenant: str, fingerprint: str, flight: str, *, first: int, follower: str
    ) -> tuple[State, list[bytes]]:
        with store_errors(), self._spans.in_background("read"):
            state, *frames = await self._read(
                names.flight(tenant, fingerprint, flight), [flight, first, FRAMES_A_READ, follower, FOLLOWER_MS]
            )
        return cast("State", state.decode()), frames

    async def renew(self, tenant: str, fingerprint: str, flight: str) -> tuple[bool, int]:
        """Whether the lease is still the caller's, and how many follow."""
        with store_errors(), self._spans.in_background("renew"):
            held, followers = await self._renew(names.flight(tenant, fingerprint, flight), [flight, LEASE_MS])
        return bool(held), int(followers)

    async def release(self, tenant: str, fingerprint: str, flight: str, *, unless_followed: bool) -> bool:
        """False: somebody follows, so the leader has to go on."""
        with store_errors(), self._spans.operation("release"):
            reply = await self._release(names.flight(tenant, fingerprint, flight), [flight, int(unless_followed)])
        return int(reply) != 0

    async def leave(self, tenant: str, fingerprint: str, flight: str, follower: str) -> None:
        with store_errors(), self._spans.in_background("leave"):
            await self._leave(names.flight(tenant, fingerprint, flight)[2:], [flight, follower])
