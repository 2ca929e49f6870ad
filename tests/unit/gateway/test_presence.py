from __future__ import annotations

import asyncio

import httpx2

from gateway.caching.cache_client import Lead
from gateway.coalescing import presence
from gateway.coalescing.flight_client import FlightClient
from support.cache_service import ALICE, BOUND_S, CacheService


async def test_a_call_that_fails_is_made_again_and_those_that_are_open_break_off_at_the_end() -> None:
    service = CacheService()
    cache = service.cache()
    paths: set[str] = set()
    broken: list[str] = []
    is_open = asyncio.Event()

    async def answer(request: httpx2.Request) -> httpx2.Response:
        paths.add(request.url.path)
        if len(service.requests) == 1:
            raise httpx2.ConnectError("refused")
        is_open.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            broken.append(request.url.path)
            raise
        raise AssertionError

    service.answer = answer
    async with asyncio.timeout(BOUND_S), presence.shown(FlightClient(service.client(), cache)):
        await is_open.wait()
    assert len(broken) == 1
    assert paths == {f"/v1/gateways/{cache.gateway_id}/presence"}


async def test_the_ids_of_a_gateways_flights_begin_with_its_own() -> None:
    service = CacheService()
    cache, other = service.cache(), service.cache()
    flights = set()
    for _ in range(2):
        found = await cache.look_up("a" * 64, identity=ALICE, request_id="")
        assert isinstance(found, Lead)
        flights.add(found.flight)
    assert len(flights) == 2
    assert {flight[:16] for flight in flights} == {cache.gateway_id} != {other.gateway_id}
