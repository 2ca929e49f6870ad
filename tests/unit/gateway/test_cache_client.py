from __future__ import annotations

import asyncio

import httpx2
import pytest

from common.identity import HopIdentity
from gateway.caching.cache_breaker import OPENS_AFTER, OPENS_AFTER_S, REST_S, CacheBreaker
from gateway.caching.cache_client import CacheClient, Follow, Found, Lead
from gateway.caching.hot_entries import Hit
from support.cache_service import ALICE, BOUND_S, SEALER, CacheService
from support.clock import Clock

BOB = HopIdentity("bob", "key2")
NAME = "a" * 64
OTHER = "1" * 64


@pytest.fixture
def service() -> CacheService:
    return CacheService()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(service: CacheService, clock: Clock) -> CacheClient:
    return service.cache(CacheBreaker(clock), timeout_s=0.05)


async def look_up(cache: CacheClient, identity: HopIdentity = ALICE, *, joins: bool = True) -> Found:
    return await cache.look_up(NAME, identity=identity, request_id="req_1", joins=joins)


def keep(service: CacheService, value: bytes, *names: str) -> None:
    for name in names:
        service.entries[name] = (SEALER.seal(value, tenant="alice", place=name), 60)


async def test_an_entry_is_opened_and_has_an_age(cache: CacheClient, service: CacheService) -> None:
    keep(service, b"answer", NAME)
    assert await look_up(cache) == Hit(b"answer", 7)
    assert service.requests[0].url.path == "/v1/lookups"
    assert service.requests[0].headers["x-request-id"] == "req_1"


async def test_who_finds_nothing_leads_if_it_joins(cache: CacheClient) -> None:
    assert isinstance(await look_up(cache), Lead)
    assert await look_up(cache, joins=False) is None


async def test_who_comes_later_follows_the_one_that_leads(cache: CacheClient, service: CacheService) -> None:
    async def led(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"x-lookup": "follow", "x-flight": "f" * 32})

    service.answer = led
    found = await look_up(cache)
    assert isinstance(found, Follow)
    assert found.flight == "f" * 32 != found.follower


async def test_a_mixed_up_reply_is_a_miss_and_an_alarm(
    cache: CacheClient, service: CacheService, caplog: pytest.LogCaptureFixture
) -> None:
    keep(service, b"answer", NAME)
    assert await look_up(cache, BOB) is None
    assert await cache.get_many([NAME], identity=BOB, request_id="") == [None]
    service.entries[OTHER] = service.entries[NAME]
    assert await cache.get_many([OTHER], identity=ALICE, request_id="") == [None]
    assert "cache_entry_did_not_open" in caplog.text
    assert cache.broken_seals == 3


async def test_several_entries_come_in_the_order_in_which_they_were_named(
    cache: CacheClient, service: CacheService
) -> None:
    keep(service, b"answer", NAME, OTHER)
    found = await cache.get_many([OTHER, "2" * 64, NAME], identity=ALICE, request_id="")
    assert found == [Hit(b"answer", 0), None, Hit(b"answer", 0)]


async def refuse(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


async def stall(_: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def fail(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(503)


async def lie_about_age(_: httpx2.Request) -> httpx2.Response:
    sealed = SEALER.seal(b"answer", tenant="alice", place=NAME)
    return httpx2.Response(200, content=sealed, headers={"x-lookup": "hit", "age": "soon"})


async def empty(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"x-lookup": "hit"})


async def say_nothing(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=b"\x00\xff garbage")


async def grant_anothers_lease(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"x-lookup": "lead", "x-flight": "f" * 32})


async def cut(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=b"\x00\x00\x00\x09cut")


FAULTS = [refuse, stall, fail, lie_about_age, empty, say_nothing, grant_anothers_lease, cut]


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_of_the_cache_is_a_miss_and_counts(
    cache: CacheClient, service: CacheService, fault: object
) -> None:
    service.answer = fault  # type: ignore[assignment]  # one of the handlers above
    async with asyncio.timeout(BOUND_S):
        assert await look_up(cache) is None
        assert await cache.get_many([NAME, OTHER], identity=ALICE, request_id="") == [None, None]
    assert cache.breaker.faults == 2


async def test_a_lease_that_may_have_been_granted_too_late_is_let_go(cache: CacheClient, service: CacheService) -> None:
    forgotten: list[str] = []
    cache.forget_flight = lambda name, flight, identity: forgotten.append(f"{name} {flight} {identity.tenant}")
    service.answer = stall
    assert await look_up(cache) is None
    asking = asyncio.create_task(look_up(cache))
    while len(service.requests) < 2:  # noqa: ASYNC110  # bounded by the test's own time
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    own_ids = [httpx2.Response(200, content=request.content).json()["own_id"] for request in service.requests]
    assert forgotten == [f"{NAME} {own_id} alice" for own_id in own_ids]


async def test_a_cache_that_keeps_failing_is_left_alone_but_for_a_probe_that_nobody_waits_for(
    cache: CacheClient, service: CacheService, clock: Clock
) -> None:
    service.answer = fail
    for _ in range(OPENS_AFTER + 3):
        assert await look_up(cache) is None
        clock.advance(OPENS_AFTER_S / (OPENS_AFTER - 1))
    assert len(service.requests) == OPENS_AFTER
    clock.advance(REST_S)
    service.answer = stall
    for _ in range(3):
        assert await look_up(cache) is None
        await asyncio.sleep(0)
    assert len(service.requests) == OPENS_AFTER + 1
    clock.advance(REST_S)
    service.answer = service.well
    keep(service, b"answer", NAME)
    async with asyncio.timeout(BOUND_S):
        while await look_up(cache) is None:  # noqa: ASYNC110  # the probe is not ours to await
            await asyncio.sleep(0)
    assert await look_up(cache) == Hit(b"answer", 7)


async def test_a_probe_that_is_answered_with_garbage_opens_nothing(
    cache: CacheClient, service: CacheService, clock: Clock
) -> None:
    service.answer = say_nothing
    for _ in range(OPENS_AFTER):
        await look_up(cache)
        clock.advance(OPENS_AFTER_S)
    clock.advance(REST_S)
    await look_up(cache)
    for _ in range(20):
        await asyncio.sleep(0)
    assert cache.breaker.is_open
    assert len(service.requests) == OPENS_AFTER + 1


async def test_faults_between_good_answers_do_not_add_up(cache: CacheClient, service: CacheService) -> None:
    keep(service, b"answer", NAME)
    for _ in range(OPENS_AFTER * 2):
        service.answer = fail
        await look_up(cache)
        service.answer = service.well
        assert await look_up(cache) == Hit(b"answer", 7)


async def test_faults_of_one_moment_are_one_and_put_no_cache_at_rest(
    cache: CacheClient, service: CacheService, clock: Clock
) -> None:
    service.answer = stall
    await asyncio.gather(*(look_up(cache) for _ in range(OPENS_AFTER * 3)))
    clock.advance(OPENS_AFTER_S - 0.01)
    await look_up(cache)
    assert not cache.breaker.is_open
    service.answer = service.well
    assert await look_up(cache) is not None  # so it was over
    clock.advance(OPENS_AFTER_S)
    service.answer = stall
    await asyncio.gather(*(look_up(cache) for _ in range(OPENS_AFTER * 3)))
    assert not cache.breaker.is_open
    clock.advance(OPENS_AFTER_S)
    await look_up(cache)
    assert cache.breaker.is_open
