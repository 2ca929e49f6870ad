from __future__ import annotations

import asyncio

import httpx2
import pytest

from gateway.caching.cache_breaker import OPENS_AFTER, OPENS_AFTER_S, CacheBreaker
from support.cache_service import ALICE, BOUND_S, SEALER, CacheService, writer_of
from support.clock import Clock

NAME = "0" * 64


@pytest.fixture
def service() -> CacheService:
    return CacheService()


async def fail(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(503)


async def refuse(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


async def stall(_: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_an_answer_is_stored_in_the_background_sealed_with_its_life_and_its_flight(service: CacheService) -> None:
    writer = writer_of(service.cache())
    async with writer.writing(BOUND_S):
        assert writer.put(NAME, b"answer", identity=ALICE, flight="f" * 32)
    (request,) = service.requests
    assert (request.method, request.headers["x-flight"]) == ("PUT", "f" * 32)
    assert 900 <= int(request.headers["x-entry-ttl-s"]) <= 1_100
    assert b"answer" not in request.content
    assert SEALER.open(request.content, tenant="alice", place=NAME) == b"answer"


async def test_entries_end_at_different_times(service: CacheService) -> None:
    writer = writer_of(service.cache(), most_orders=50)
    async with writer.writing(BOUND_S):
        for number in range(50):
            writer.put(f"{number:064x}", b"answer", identity=ALICE)
    lives = {life for _, life in service.entries.values()}
    assert len(lives) > 5
    assert min(lives) >= 900
    assert max(lives) <= 1_100


async def test_several_answers_go_in_one_call(service: CacheService) -> None:
    writer = writer_of(service.cache())
    async with writer.writing(BOUND_S):
        assert writer.put_many([("1" * 64, b"one"), ("2" * 64, b"two"), ("3" * 64, bytes(2_000))], identity=ALICE)
    assert len(service.requests) == 1
    opened = {name: SEALER.open(sealed, tenant="alice", place=name) for name, (sealed, _) in service.entries.items()}
    assert opened == {"1" * 64: b"one", "2" * 64: b"two"}


async def test_an_answer_that_is_too_large_is_not_stored(service: CacheService) -> None:
    writer = writer_of(service.cache())
    async with writer.writing(BOUND_S):
        assert not writer.put(NAME, bytes(1_025), identity=ALICE)
    assert service.requests == []


async def test_more_answers_than_may_wait_are_dropped_and_counted(service: CacheService) -> None:
    writer = writer_of(service.cache(), most_orders=2)
    assert [writer.put(NAME, b"answer", identity=ALICE) for _ in range(5)] == [True, True, False, False, False]
    assert writer.dropped == 3


async def test_more_bytes_than_may_wait_are_dropped_and_counted(service: CacheService) -> None:
    writer = writer_of(service.cache(), most_bytes=2_500)
    assert [writer.put(NAME, bytes(900), identity=ALICE) for _ in range(3)] == [True, True, False]
    assert writer.put(NAME, b"small", identity=ALICE)
    async with writer.writing(BOUND_S):
        pass
    assert writer.put(NAME, bytes(900), identity=ALICE)
    assert writer.dropped == 1


@pytest.mark.parametrize("fault", [refuse, fail])
async def test_an_answer_that_cannot_be_stored_stops_no_other(service: CacheService, fault: object) -> None:
    service.answer = fault  # type: ignore[assignment]  # one of the handlers above
    writer = writer_of(service.cache())
    async with asyncio.timeout(BOUND_S), writer.writing(BOUND_S):
        writer.put(NAME, b"one", identity=ALICE)
        writer.put(NAME, b"two", identity=ALICE)
    assert len(service.requests) == 2


async def test_a_cache_that_is_left_alone_is_not_written_to_either(service: CacheService) -> None:
    clock = Clock()
    cache = service.cache(CacheBreaker(clock))
    writer = writer_of(cache)
    for _ in range(OPENS_AFTER):
        cache.breaker.fault("test")
        clock.advance(OPENS_AFTER_S)
    assert not writer.put(NAME, b"answer", identity=ALICE)
    assert writer.dropped == 1


async def test_what_was_taken_before_the_cache_was_left_alone_is_dropped_as_well(service: CacheService) -> None:
    clock = Clock()
    cache = service.cache(CacheBreaker(clock))
    writer = writer_of(cache)
    assert writer.put(NAME, b"answer", identity=ALICE)
    for _ in range(OPENS_AFTER):
        cache.breaker.fault("test")
        clock.advance(OPENS_AFTER_S)
    async with asyncio.timeout(BOUND_S), writer.writing(BOUND_S):
        pass
    assert (writer.dropped, service.requests) == (1, [])


async def test_a_cache_that_stalls_delays_the_stop_by_its_bound_only(service: CacheService) -> None:
    service.answer = stall
    writer = writer_of(service.cache())
    async with asyncio.timeout(BOUND_S), writer.writing(0.02):
        writer.put(NAME, b"one", identity=ALICE)


async def test_a_lease_whose_answer_came_too_late_is_let_go(service: CacheService) -> None:
    cache = service.cache()
    writer = writer_of(cache)
    async with writer.writing(BOUND_S):
        cache.forget_flight(NAME, "f" * 32, ALICE)
    (request,) = service.requests
    assert (request.method, request.url.path) == ("DELETE", f"/v1/flights/{NAME}/{'f' * 32}")
