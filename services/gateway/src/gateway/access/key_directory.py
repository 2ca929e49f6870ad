"""What this process knows of keys and their tenants: from memory for 10 s, then from the store.

While the store is away a record that it confirmed within the last 10 minutes stays good; what nobody knows is refused
with 503, because nobody can tell. Other replicas' keys are known too: see `gateway.access.key_upkeep`.

Records are remembered under the key's public id and hold no verdict: whoever shows a key is judged each time by the
digest of the whole of it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from common.errors import Unavailable
from gateway.access.records import KeyRecord, TenantRecord, policy_of
from gateway.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from gateway.access.keys import Policy
    from gateway.store_breaker import StoreBreaker

FRESH_S = 10
"""A revocation reaches every replica within this time: no message has to arrive for it."""
STALE_S = 600
UNKNOWN_S = 5
LOOK_UP_S = 0.25
"""What a look-up may take in all: both reads, and waiting for a connection."""
REMEMBERED = 10_000
REMEMBERED_UNKNOWN = 1_000
"""Kept apart: anybody can make up keys of the right shape, and they must not push out those that are known."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key's record, its tenant's, and what follows from the two."""

    key: KeyRecord
    tenant: TenantRecord
    policy: Policy

    @classmethod
    def of(cls, key: KeyRecord, tenant: TenantRecord | None) -> Self:
        tenant = tenant or TenantRecord(key.tenant)
        return cls(key, tenant, policy_of(key, tenant))

    def is_live(self, now: float) -> bool:
        """`now`: Unix seconds."""
        return self.tenant.enabled and self.key.is_live(now)


@dataclass(frozen=True, slots=True)
class _Remembered:
    known: Known
    asked_at: float
    """When the store was asked, not when it answered: a revocation in between must not count as seen."""


class KeyDirectory:
    def __init__(
        self,
        fetch: Callable[[str], Awaitable[Known | None]],
        breaker: StoreBreaker,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._breaker = breaker
        self._clock = clock
        self._remembered: dict[str, _Remembered] = {}
        self._unknown: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[Known | None]] = {}
        self.stale_answers = 0
        """Look-ups that memory alone answered, because the store was away."""

    def fresh(self, kid: str, *, within_s: float = FRESH_S) -> Known | None:
        """What is remembered and was confirmed within this time; None: ask."""
        remembered = self._remembered.get(kid)
        if remembered is not None and self._clock() - remembered.asked_at < within_s:
            return remembered.known
        return None

    async def look_up(self, kid: str, *, within_s: float = FRESH_S) -> Known | None:
        """The records of a key, None when there is no such key. Raises `Unavailable` when nobody can tell."""
        if (known := self.fresh(kid, within_s=within_s)) is not None:
            return known
        if self._clock() - self._unknown.get(kid, -UNKNOWN_S) < UNKNOWN_S:
            return None
        if not self._breaker.is_open:
            try:
                return await self._ask(kid)
            except StoreUnavailableError as error:
                self._breaker.trip(error.reason)
        if (known := self.fresh(kid, within_s=STALE_S)) is not None:
            self.stale_answers += 1
            return known
        raise Unavailable("API keys cannot be checked right now.", code="key_store_unavailable")

    def remember(self, known: Iterable[Known], *, asked_at: float) -> None:
        """Take over what somebody asked the store about."""
        for one in known:
            self._keep(one.key.kid, one, asked_at)

    def older_than(self, kids: Iterable[str], age_s: float) -> list[str]:
        """Those of them that were not confirmed for so long."""
        return [kid for kid in kids if self.fresh(kid, within_s=age_s) is None]

    def forget(self, kid: str) -> None:
        """It was changed through this process: its next request sees the change."""
        self._remembered.pop(kid, None)
        self._unknown.pop(kid, None)

    def forget_all(self) -> None:
        """As above, for what concerns many keys. Answers of the store that are under way are not affected."""
        self._remembered.clear()
        self._unknown.clear()

    async def _ask(self, kid: str) -> Known | None:
        # One question per key at a time: a key's thousand requests do not all ask when its record turns old.
        asking = self._asking.get(kid)
        if asking is None:
            asking = self._asking[kid] = asyncio.create_task(self._learn(kid))
            asking.add_done_callback(lambda _: self._asking.pop(kid, None))
        return await asyncio.shield(asking)

    async def _learn(self, kid: str) -> Known | None:
        asked_at = self._clock()
        try:
            async with asyncio.timeout(LOOK_UP_S):
                known = await self._fetch(kid)
        except TimeoutError:
            raise StoreUnavailableError("TimeoutError") from None
        self._keep(kid, known, asked_at)
        return known

    def _keep(self, kid: str, known: Known | None, asked_at: float) -> None:
        self.forget(kid)  # and to the end of the line: the one that is longest unconfirmed goes first
        if known is None:
            _make_room(self._unknown, REMEMBERED_UNKNOWN)
            self._unknown[kid] = asked_at
        else:
            _make_room(self._remembered, REMEMBERED)
            self._remembered[kid] = _Remembered(known, asked_at)


def _make_room(answers: dict[str, _Remembered] | dict[str, float], limit: int) -> None:
    if len(answers) >= limit:
        del answers[next(iter(answers))]
