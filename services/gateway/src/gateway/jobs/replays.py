"""A worker's replay of a job: a call of the platform's own, on behalf of the tenant whose job it is.

Its credential is a hop token for this service instead of an API key. The job's key has to be live still, and whatever
that key may do, a replay comes at batch priority.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from common.errors import Unauthenticated
from gateway.access.authentication import Caller, bearer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.identity import HopVerifier
    from gateway.access.key_directory import Known

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
    """Checks the tokens of workers; whether a key is live is remembered as long as for its own calls."""

    def __init__(
        self,
        verifier: HopVerifier,
        look_up: Callable[[str], Awaitable[Known | None]],
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._look_up = look_up
        self._wall_clock = wall_clock

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the tenant's caller. Raises `Unauthenticated`, `KeyRevoked`, or `Unavailable` as for a key."""
        identity = self._verifier.verify(authorization)
        known = await self._look_up(identity.key_id)
        if known is None or known.tenant.tenant != identity.tenant or not known.is_live(self._wall_clock()):
            raise KeyRevoked
        return Caller(identity.tenant, identity.key_id, replace(known.policy, priority="batch"), is_replay=True)
