"""A service whose host is `::` answers on every address, as private networks of IPv6 behind a proxy of IPv4 need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.http_client import create_client
from support.replicas import replicas

if TYPE_CHECKING:
    from support.platform import Platform


async def test_a_service_on_every_address_answers_our_clients_by_ipv4_and_ipv6(stack: Platform) -> None:
    with replicas(stack, 1, host="::") as [gateway]:
        ipv6 = gateway.url.replace("127.0.0.1", "[::1]")
        async with create_client() as client:
            for url in (gateway.url, ipv6):
                assert (await client.get(f"{url}/livez")).json() == {"status": "ok"}
