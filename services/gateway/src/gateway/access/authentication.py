"""Whose key is this? Shape and checksum first, then the digest of the whole key against the record of its id."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import Unauthenticated
from gateway.access.key_directory import STALE_S
from gateway.access.keys import NO_LIMITS, ApiKey, Policy, digest_of
from gateway.access.records import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.access.failed_logins import FailedLogins
    from gateway.access.key_directory import KeyDirectory, Known

RECHECK_S = 1
"""A key that does not fit the record is held against a newer one if that is older than this: it may just have been
rotated elsewhere. So guessing at a known id costs the store one look-up a second."""


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


class Authenticator:
    """Checks API keys. One that was good within the last 10 minutes is let in, whatever others of its network did."""

    def __init__(
        self,
        directory: KeyDirectory,
        failed_logins: FailedLogins,
        peppers: Sequence[str],
        *,
        note_used: Callable[[str, float], None] = lambda _kid, _at: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self.failed_logins = failed_logins
        self._peppers = tuple(peppers)
        self._note_used = note_used
        self._wall_clock = wall_clock

    async def authenticate(self, authorization: str | None, address: str | None = None) -> Caller:
        """Return the caller. `address`: of the client, for counting its failures.

        Raises `Unauthenticated` (401), `TooManyFailedLogins` (429, nobody was asked) or `Unavailable` (503: the store
        cannot tell).
        """
        key = ApiKey.parse(bearer(authorization))
        if key is None:
            self.failed_logins.check(address)
            self.failed_logins.note(address)
            raise Unauthenticated(
                "No API key was given. Send it as 'Authorization: Bearer <key>'."
                if authorization is None
                else "The API key is not valid."
            )
        now = self._wall_clock()
        digests = [digest_of(key.text, pepper) for pepper in self._peppers]
        known = self._directory.fresh(key.kid)
        if not _is_good(known, digests, now):
            if not _is_good(self._directory.fresh(key.kid, within_s=STALE_S), digests, now):
                self.failed_logins.check(address)
            known = await self._directory.look_up(key.kid)
            if known is not None and not known.key.is_of(digests, now):
                known = await self._directory.look_up(key.kid, within_s=RECHECK_S)
        if known is None or not _is_good(known, digests, now):
            self.failed_logins.note(address)
            raise Unauthenticated("The API key is not valid.")
        self._note_used(key.kid, now)
        return Caller(known.tenant.tenant, key.kid, known.policy)

    def trusts_trace(self, authorization: str) -> bool:
        """Whether a caller's trace goes on here, by what is remembered of its key: nothing can be asked this early."""
        key = ApiKey.parse(bearer(authorization))
        known = None if key is None else self._directory.fresh(key.kid, within_s=STALE_S)
        if key is None or known is None or not known.policy.trusted_trace:
            return False
        return _is_good(known, [digest_of(key.text, pepper) for pepper in self._peppers], self._wall_clock())


def _is_good(known: Known | None, digests: Sequence[str], now: float) -> bool:
    record = NOBODY if known is None else known.key
    is_right = record.is_of(digests, now)
    return known is not None and is_right and known.is_live(now)
