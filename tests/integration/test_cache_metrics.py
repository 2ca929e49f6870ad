"""What the cache service's instruments say: its own counts, and what its store says of itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from cache.entries import Entries
from cache.flights import Flights
from cache.inventory import Inventory
from cache.metrics import Metrics
from common.figures import Figures
from common.stores import connect
from support.instruments import Instruments
from support.platform import BOUND_S, chat, eventually
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from redis.asyncio import Redis

    from support.platform import Platform

LOOKUPS, FLIGHTS = "spillway.cache.lookups", "spillway.cache.flights"
FINGERPRINT, OTHER = "a" * 64, "b" * 64
OFTEN_S = 0.01


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store of this test's own, to be filled and frozen."""
    with valkey("cache", tmp_path_factory.mktemp("small")) as server:
        yield server


@pytest.fixture
async def store(small: Valkey) -> AsyncIterator[Redis]:
    async with connect(small.url) as client:
        yield client


async def becomes(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not look():  # noqa: ASYNC110  # the watch is a task of this loop, it makes progress
            await asyncio.sleep(OFTEN_S)


async def test_what_was_found_is_counted_for_each_entry_that_was_looked_for(store: Redis) -> None:
    instruments, entries = Instruments(), Entries(store)
    flights = Flights(store, entries)
    Metrics(instruments.meter, entries, flights, Figures(Inventory(store).figures))
    assert (await flights.look_up("t", FINGERPRINT)).word == "none"
    leader = uuid4().hex
    assert (await flights.look_up("t", FINGERPRINT, own_id=leader)).word == "lead"
    assert (await flights.look_up("t", FINGERPRINT, own_id=uuid4().hex)).word == "follow"
    await entries.put("t", FINGERPRINT, b"sealed", ttl_s=60, flight=leader)
    assert (await flights.look_up("t", FINGERPRINT, own_id=uuid4().hex)).word == "hit"
    assert [bool(found) for found in await entries.get_many("t", [FINGERPRINT, OTHER])] == [True, False]
    assert instruments.by(LOOKUPS, "outcome") == {"hit": 2, "none": 2, "lead": 1, "follow": 1}


async def test_a_store_that_lets_entries_go_is_seen_to_and_one_that_is_frozen_says_nothing(
    small: Valkey, store: Redis
) -> None:
    instruments, entries, stock = Instruments(), Entries(store), Inventory(store)
    figures = Figures(stock.figures, interval_s=OFTEN_S)
    Metrics(instruments.meter, entries, Flights(store, entries), figures)
    names = ("spillway.cache.entries", "spillway.cache.evictions", "spillway.cache.memory.usage")
    assert [instruments.points(name) for name in names] == [[], [], []]  # it has not been asked yet
    async with figures.watching():
        await entries.put("t", FINGERPRINT, b"sealed", ttl_s=60)
        await becomes(lambda: instruments.value("spillway.cache.entries") == 2)  # and the tenant's counters
        assert instruments.value("spillway.cache.evictions") == 0
        info = await store.info("memory")
        await store.config_set("maxmemory", info["used_memory"] + 256 * 1024)
        for number in range(64):
            await entries.put("t", f"{number:064x}", b"x" * 16_384, ttl_s=60)
        evicted = (await store.info("stats"))["evicted_keys"]
        assert evicted > 0
        await becomes(lambda: instruments.value("spillway.cache.evictions") == evicted)
        assert instruments.value("spillway.cache.memory.usage") > 256 * 1024
        small.freeze()
        await becomes(lambda: all(not instruments.points(name) for name in names))
        small.thaw()
        await becomes(lambda: all(instruments.points(name) for name in names))


async def test_a_scrape_never_asks_the_store(store: Redis) -> None:
    instruments, entries = Instruments(), Entries(store)
    asked = 0

    async def look() -> None:
        nonlocal asked
        asked += 1

    figures = Figures(look)
    Metrics(instruments.meter, entries, Flights(store, entries), figures)  # type: ignore[arg-type]  # it is never to look
    instruments.series()
    assert asked == 0


def test_the_running_service_counts_the_flights_that_are_led_and_what_followers_are_told(
    stack: Platform, prompt: str
) -> None:
    instruments = stack.instruments["cache"]
    eventually(lambda: instruments.value(FLIGHTS) == 0)
    before = instruments.by(LOOKUPS, "outcome")
    with stack.http() as http:
        body = chat(f"{prompt} [[sim ttft_ms=1000]]", stream=True)
        with http.stream("POST", "/v1/chat/completions", json=body) as led:
            eventually(lambda: instruments.value(FLIGHTS) == 1)
            assert "[DONE]" in led.read().decode()
        eventually(lambda: instruments.value(FLIGHTS) == 0)
    after = instruments.by(LOOKUPS, "outcome")
    assert after["lead"] - before.get("lead", 0) == 1
    assert instruments.value("spillway.cache.memory.usage") > 0
    assert {name for name, _ in instruments.series()} >= {
        LOOKUPS, FLIGHTS, "spillway.cache.entries", "spillway.cache.evictions", "spillway.cache.memory.usage",
    }  # fmt: skip
