"""Whether to wait for a slot is worth it: which of the latest calls of the same kind got one."""

from __future__ import annotations

from typing import NamedTuple

REMEMBERED_CALLS = 128
"""About so many count: with fewer, chance would take a load that stays for one that has passed."""
POOR = 0.62
"""At the capacity more than 0.7 of the calls get a slot even if they wait for 50 ms alone (a queue of Poisson
arrivals), so that a load is not held to the short wait by its own refusals; at twice the capacity half of them do."""
_AS_GOOD_AS_ALL = 0.999
_KINDS = 1_000


class Kind(NamedTuple):
    tenant: str
    model: str
    is_batch: bool


class Prospects:
    """Of each kind of call by itself: a tenant that asks for too much makes nobody else's poor."""

    def __init__(self) -> None:
        self._shares: dict[Kind, float] = {}
        """Of those alone some of whose latest calls got none."""

    def note(self, kind: Kind, *, got_one: bool) -> None:
        if got_one and kind not in self._shares:
            return
        share = self._shares.pop(kind, 1.0)
        share += (got_one - share) / REMEMBERED_CALLS
        if share < _AS_GOOD_AS_ALL:
            if len(self._shares) >= _KINDS:
                del self._shares[next(iter(self._shares))]
            self._shares[kind] = share

    def are_poor(self, kind: Kind) -> bool:
        return self._shares.get(kind, 1.0) < POOR
