"""Counts failed authentications by where they come from, so that guessing keys costs the guesser and not the store.

A leaky bucket per network (GCRA: one time stamp each): 20 at once, then one every three seconds. Networks are /24 of
IPv4 and /56 of IPv6: what one subscriber usually has. In this process alone; bounded.
"""

from __future__ import annotations

import ipaddress
import math
import time
from typing import TYPE_CHECKING

from common.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_S = 60
_NETWORKS = 10_000
_IPV4_PREFIX = 24
_IPV6_PREFIX = 56


class TooManyFailedLogins(RateLimited):
    code = "too_many_failed_authentications"


class FailedLogins:
    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = _WINDOW_S / per_minute
        self._clock = clock
        self._full_until: dict[str, float] = {}
        """When a network's bucket will be empty again."""
        self.noted = 0

    def check(self, address: str | None) -> None:
        """Raise `TooManyFailedLogins` (429) when the network of `address` has no failure left."""
        over_s = self._full_until.get(network_of(address), 0) - self._clock() - (_WINDOW_S - self._interval_s)
        if over_s > 0:
            raise TooManyFailedLogins(
                "Too many failed authentications from your network.", headers={"retry-after": str(math.ceil(over_s))}
            )

    def note(self, address: str | None) -> None:
        """Count one failure."""
        self.noted += 1
        network, now = network_of(address), self._clock()
        full_until = max(self._full_until.pop(network, now), now) + self._interval_s
        if len(self._full_until) >= _NETWORKS:
            del self._full_until[next(iter(self._full_until))]
        self._full_until[network] = full_until


def network_of(address: str | None) -> str:
    """The network that an address counts for; what is no address counts for itself."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if parsed.version == 4 else _IPV6_PREFIX  # noqa: PLR2004  # the version of the protocol
    return str(ipaddress.ip_network((parsed, prefix), strict=False))
