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
from gateway.keys import ApiKey, KeyRecord, digest_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

FRESH_S = 10
STALE_S = 600
UNKNOWN_S = 5
STORE_REST_S = 1
"""After a failure the store is left alone this long: a frozen one costs a request its timeout once, not each time."""
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified sender of a request."""

    tenant: str
    key_id: str


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization: Bearer` header (RFC 6750), empty when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(slots=True)
class _Known:
    record: KeyRecord | None
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
        self._asking: dict[bytes, asyncio.Task[None]] = {}
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
        if known is not None and self._clock() - known.at < (UNKNOWN_S if known.record is None else FRESH_S):
            return known.record
        if self._clock() >= self._store_rests_until:
            try:
                return await self._ask(key, memory)
            except StoreUnavailableError as error:
                self._store_rests_until = self._clock() + STORE_REST_S
                logger.warning("state_store_unavailable", extra={"reason": error.reason})
        if known is not None and known.record is not None and self._clock() - known.at < STALE_S:
            return known.record
        raise Unavailable("API keys cannot be checked right now.", code="key_store_unavailable")

    async def _ask(self, key: ApiKey, memory: bytes) -> KeyRecord | None:
        # One question per key at a time: a key's thousand requests do not all ask when its record turns old.
        asking = self._asking.get(memory)
        if asking is None:
            asking = self._asking[memory] = asyncio.create_task(self._look_up(key, memory))
            asking.add_done_callback(lambda _: self._asking.pop(memory, None))
        await asyncio.shield(asking)
        return self._known[memory].record

    async def _look_up(self, key: ApiKey, memory: bytes) -> None:
        record = await self._fetch(key.kid)
        digests = [digest_of(key.text, pepper) for pepper in self._peppers]
        if record is not None and not record.is_of(digests):
            record = None
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known.pop(memory, None)  # so that the dictionary's order is that of the answers
        self._known[memory] = _Known(record, self._clock())
