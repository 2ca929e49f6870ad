"""A service whose host is `::` answers on every address, as private networks of IPv6 behind a proxy of IPv4 need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from support.replicas import replicas

if TYPE_CHECKING:
    from support.platform import Platform


def test_a_service_on_every_address_answers_ipv4_and_ipv6(stack: Platform) -> None:
    with replicas(stack, 1, host="::") as [gateway]:
        ipv6 = gateway.url.replace("127.0.0.1", "[::1]")
        for url in (gateway.url, ipv6):
            assert httpx2.get(f"{url}/livez", trust_env=False).json() == {"status": "ok"}
