"""How a service is entered, and who stands before it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

HEADER_TIMEOUT_S = 10

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Door:
    """How a service is entered."""

    is_edge: bool = False
    """Clients come here: what they say of themselves in headers of ours, or of proxies, is taken out."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose `X-Forwarded-For` counts, and whose connections are not counted."""
    connections_per_address: int = 0
    """0: no cap."""
    body_timeout_s: float = 35
    linger_s: int = 0
    """When the server stops: how long an idle connection stays open after its last answer, if that did not close it."""
    header_timeout_s: float = HEADER_TIMEOUT_S
    decoded_below: tuple[bytes, ...] = ()
    """Paths below which `%2f` and its like stand for what they encode; everywhere else for themselves: for no route."""

    def networks(self) -> list[Network]:
        return [ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies]


def unmapped(address: str) -> str:
    """An IPv4 client as itself, whom a socket that listens on `::` names `::ffff:192.0.2.1`.

    Source: RFC 4291, 2.5.5.2.
    """
    if not address.startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped) if mapped else address


def is_in(address: str, networks: list[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
