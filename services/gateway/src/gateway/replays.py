"""A worker's replay of a job: a call of the platform's own, on behalf of the tenant whose job it is.

Its credential is a hop token for this service instead of an API key. The job's key has to be live still, and whatever
that key may do, a replay comes at batch priority.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from common.errors import Unauthenticated
from gateway.authentication import FRESH_S, REMEMBERED, Caller, bearer
from gateway.keys import NO_LIMITS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.identity import HopVerifier
    from gateway.keys import KeyRecord

_JWT = "ey"
"""What every JWT begins with (a JSON object in base64), and no API key."""


class KeyRevoked(Unauthenticated):
    code = "key_revoked"

    def __init__(self) -> None:
        super().__init__("The API key that submitted this is not valid any more.")


def is_hop_token(authorization: str | None) -> bool:
    """Whether this may be a token of the platform's own: no API key looks like one."""
    return bearer(authorization).startswith(_JWT)


def is_workers(verifier: HopVerifier, authorization: str) -> bool:
    """Whether this is a worker's token, whatever the key behind it: the trace it comes with is ours and goes on."""
    if not is_hop_token(authorization):
        return False
    try:
        verifier.verify(authorization)
    except Unauthenticated:
        return False
    return True


class ReplayAuthenticator:
    """Checks the tokens of workers; a key's record is remembered for 10 s, as for its own calls."""

    def __init__(
        self,
        verifier: HopVerifier,
        fetch: Callable[[str], Awaitable[KeyRecord | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._fetch = fetch
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: dict[str, tuple[float, KeyRecord | None]] = {}

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the tenant's caller. Raises `Unauthenticated`, `KeyRevoked`, or `Unavailable` as for a key."""
        identity = self._verifier.verify(authorization)
        record = await self._record(identity.key_id)
        if record is None or record.tenant != identity.tenant or not record.is_live(self._wall_clock()):
            raise KeyRevoked
        return Caller(record.tenant, record.kid, replace(NO_LIMITS, priority="batch"), is_replay=True)

    async def _record(self, kid: str) -> KeyRecord | None:
        at, record = self._known.get(kid, (0.0, None))
        if kid not in self._known or self._clock() - at >= FRESH_S:
            record = await self._fetch(kid)
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[kid] = (self._clock(), record)
        return record
