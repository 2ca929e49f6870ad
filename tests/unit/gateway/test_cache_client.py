from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx2
import pytest

from common.identity import HopIdentity, HopSigner
from gateway.cache_client import REST_AFTER_FAULTS, REST_S, CacheClient, Hit
from gateway.sealing import Sealer
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

ALICE = HopIdentity("alice", "key1")
NAME = "0" * 64
SEALER = Sealer("a-secret-of-the-gateway")
BOUND_S = 5


class Service:
    """The cache service as a transport: answers what it is told, and counts."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.answer: Handler = self.nothing

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return await self.answer(request)

    async def nothing(self, _: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404)

    async def an_entry(self, _: httpx2.Request) -> httpx2.Response:
        sealed = SEALER.seal(b"answer", tenant="alice", fingerprint=NAME)
        return httpx2.Response(200, content=sealed, headers={"age": "7"})


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(service: Service, clock: Clock) -> CacheClient:
    return CacheClient(
        httpx2.AsyncClient(transport=httpx2.MockTransport(service), base_url="http://cache"),
        HopSigner("the-secret-of-the-cache-0123456789abcdef", "cache"),
        SEALER,
        timeout_s=0.05,
        put_queue=2,
        clock=clock,
    )


async def get(cache: CacheClient, identity: HopIdentity = ALICE) -> Hit | None:
    return await cache.get(NAME, identity=identity, request_id="req_1")


async def test_an_entry_is_opened_and_has_an_age(cache: CacheClient, service: Service) -> None:
    service.answer = service.an_entry
    assert await get(cache) == Hit(b"answer", 7)
    assert service.requests[0].url.path == f"/v1/entries/{NAME}"
    assert service.requests[0].headers["x-request-id"] == "req_1"


async def test_no_entry_is_a_miss(cache: CacheClient) -> None:
    assert await get(cache) is None


async def test_a_mixed_up_reply_is_a_miss_and_an_alarm(
    cache: CacheClient, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = service.an_entry
    assert await get(cache, HopIdentity("bob", "key2")) is None
    assert "cache_entry_did_not_open" in caplog.text


async def refuse(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


async def stall(_: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def fail(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(503)


async def lie_about_age(_: httpx2.Request) -> httpx2.Response:
    sealed = SEALER.seal(b"answer", tenant="alice", fingerprint=NAME)
    return httpx2.Response(200, content=sealed, headers={"age": "soon"})


async def empty(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200)


@pytest.mark.parametrize("fault", [refuse, stall, fail, lie_about_age, empty])
async def test_every_fault_of_the_cache_is_a_miss(cache: CacheClient, service: Service, fault: Handler) -> None:
    service.answer = fault
    async with asyncio.timeout(BOUND_S):
        assert await get(cache) is None


async def test_a_cache_that_keeps_failing_is_left_alone_for_two_seconds(
    cache: CacheClient, service: Service, clock: Clock
) -> None:
    service.answer = fail
    for _ in range(REST_AFTER_FAULTS + 3):
        assert await get(cache) is None
    assert len(service.requests) == REST_AFTER_FAULTS
    clock.advance(REST_S)
    assert await get(cache) is None
    assert await get(cache) is None
    assert len(service.requests) == REST_AFTER_FAULTS + 1
    clock.advance(REST_S)
    service.answer = service.an_entry
    for _ in range(REST_AFTER_FAULTS):
        assert await get(cache) == Hit(b"answer", 7)


async def test_faults_between_good_answers_do_not_add_up(cache: CacheClient, service: Service) -> None:
    for _ in range(REST_AFTER_FAULTS * 2):
        service.answer = fail
        await get(cache)
        service.answer = service.an_entry
        assert await get(cache) == Hit(b"answer", 7)


async def test_an_answer_is_stored_in_the_background_sealed(cache: CacheClient, service: Service) -> None:
    async with cache.writing(BOUND_S):
        cache.put(NAME, b"answer", identity=ALICE, ttl_s=60)
    (request,) = service.requests
    assert (request.method, request.headers["x-entry-ttl-s"]) == ("PUT", "60")
    assert b"answer" not in request.content
    assert SEALER.open(request.content, tenant="alice", fingerprint=NAME) == b"answer"


async def test_more_answers_than_may_wait_are_dropped_and_counted(cache: CacheClient) -> None:
    for _ in range(5):
        cache.put(NAME, b"answer", identity=ALICE, ttl_s=60)
    assert cache.dropped_puts == 3


@pytest.mark.parametrize("fault", [refuse, fail])
async def test_an_answer_that_cannot_be_stored_stops_no_other(
    cache: CacheClient, service: Service, fault: Handler
) -> None:
    service.answer = fault
    async with asyncio.timeout(BOUND_S), cache.writing(BOUND_S):
        cache.put(NAME, b"one", identity=ALICE, ttl_s=60)
        cache.put(NAME, b"two", identity=ALICE, ttl_s=60)
    assert len(service.requests) == 2


async def test_a_cache_that_stalls_delays_the_stop_by_its_bound_only(cache: CacheClient, service: Service) -> None:
    service.answer = stall
    async with asyncio.timeout(BOUND_S), cache.writing(0.02):
        cache.put(NAME, b"one", identity=ALICE, ttl_s=60)
