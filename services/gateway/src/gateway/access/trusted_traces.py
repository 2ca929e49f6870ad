"""Whose traces go on here instead of being linked: a worker's, and those of keys that are trusted with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.jobs.replays import is_hop_token, is_workers

if TYPE_CHECKING:
    from common.identity import HopVerifier
    from gateway.access.authentication import Authenticator


@dataclass(slots=True)
class TrustedTraces:
    """Asked before a request's first span, so it waits for nothing: a key that this replica, or any other, has not
    seen within 10 minutes is not trusted yet, and its first trace is a link.
    """

    workers: HopVerifier | None
    authenticator: Authenticator | None = None
    """Known once the lifespan has begun."""

    def is_of(self, authorization: str) -> bool:
        if is_hop_token(authorization):
            return self.workers is not None and is_workers(self.workers, authorization)
        return self.authenticator is not None and self.authenticator.trusts_trace(authorization)
