"""Whose key is this? Answered from memory for 10 s, then from the state store.

While the store is away a key that was good within the last 10 minutes stays good; an unknown one is refused with 503,
because nobody can tell. A revocation therefore bites within 10 s, or within 10 min of a store outage.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import Unauthenticated, Unavailable
from gateway.errors import StoreUnavailableError
from gateway.keys import NO_LIMITS, ApiKey, KeyRecord, Policy, digest_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

FRESH_S = 10
STALE_S = 600
UNKNOWN_S = 5
STORE_REST_S = 1
"""After a failure the store is left alone this long: a frozen one costs a request its timeout once, not each time."""
REMEMBERED = 10_000
REMEMBERED_UNKNOWN = 1_000
"""Kept apart: anybody can make up keys of the right shape, and they must not push out those that are known."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified sender of a request."""

    tenant: str
    key_id: str
    policy: Policy = NO_LIMITS
    is_replay: bool = False
    """A worker calls, for a job of the tenant's."""


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization: Bearer` header (RFC 6750), empty when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(slots=True)
class _Known:
    record: KeyRecord
    at: float


class Authenticator:
    """Checks API keys; remembers answers under the SHA-256 of the whole key, never under a part of it."""

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[KeyRecord | None]],
        peppers: Sequence[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._peppers = tuple(peppers)
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}
        self._asking: dict[bytes, asyncio.Task[KeyRecord | None]] = {}
        self._store_rests_until = 0.0

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller, or raise `Unauthenticated` (401) or `Unavailable` (503: the store cannot tell)."""
        key = ApiKey.parse(bearer(authorization))
        if key is None:
            raise Unauthenticated(
                "No API key was given. Send it as 'Authorization: Bearer <key>'."
                if authorization is None
                else "The API key is not valid."
            )
        record = await self._record(key)
        if record is None or not record.is_live(self._wall_clock()):
            raise Unauthenticated("The API key is not valid.")
        return Caller(record.tenant, record.kid)

    async def _record(self, key: ApiKey) -> KeyRecord | None:
        memory = hashlib.sha256(key.text.encode()).digest()
        known = self._known.get(memory)
        if known is not None and self._clock() - known.at < FRESH_S:
            return known.record
        if memory in self._unknown and self._clock() - self._unknown[memory] < UNKNOWN_S:
            return None
        if self._clock() >= self._store_rests_until:
            try:
                return await self._ask(key, memory)
            except StoreUnavailableError as error:
                if self._clock() >= self._store_rests_until:  # many may have waited for the one answer
                    self._store_rests_until = self._clock() + STORE_REST_S
                    logger.warning("state_store_unavailable", extra={"reason": error.reason})
        if known is not None and self._clock() - known.at < STALE_S:
            return known.record
        raise Unavailable("API keys cannot be checked right now.", code="key_store_unavailable")

    async def _ask(self, key: ApiKey, memory: bytes) -> KeyRecord | None:
        # One question per key at a time: a key's thousand requests do not all ask when its record turns old.
        asking = self._asking.get(memory)
        if asking is None:
            asking = self._asking[memory] = asyncio.create_task(self._look_up(key, memory))
            asking.add_done_callback(lambda _: self._asking.pop(memory, None))
        return await asyncio.shield(asking)

    async def _look_up(self, key: ApiKey, memory: bytes) -> KeyRecord | None:
        record = await self._fetch(key.kid)
        digests = [digest_of(key.text, pepper) for pepper in self._peppers]
        self._known.pop(memory, None)
        self._unknown.pop(memory, None)
        if record is None or not record.is_of(digests):
            _forget_oldest(self._unknown, REMEMBERED_UNKNOWN)
            self._unknown[memory] = self._clock()
            return None
        _forget_oldest(self._known, REMEMBERED)
        self._known[memory] = _Known(record, self._clock())
        return record


def _forget_oldest(answers: dict[bytes, _Known] | dict[bytes, float], limit: int) -> None:
    if len(answers) >= limit:
        del answers[next(iter(answers))]
