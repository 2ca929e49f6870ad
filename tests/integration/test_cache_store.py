"""The cache service's scripts against a real store: who leads, who follows, what is kept, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from cache import names
from cache.bells import Bells, rung
from cache.entries import Entries, Entry
from cache.errors import StoreUnavailable
from cache.flights import MAX_FLIGHT_BYTES, Flights, Found
from cache.gateways import GONE_AFTER_MS, REMEMBERED_MS, Gateways
from cache.inventory import Inventory
from common.http_client import create_client
from common.identity import HopIdentity, HopSigner
from common.stores import connect
from support.clock import Clock
from support.platform import SECRETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from support.platform import Platform
    from support.valkey import Valkey

BOUND_S = 10


@pytest.fixture
async def store(cache_store: Valkey) -> AsyncIterator[Redis]:
    async with connect(cache_store.url, call_timeout_s=BOUND_S) as client:  # a busy machine's store may be late
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entries(store: Redis, clock: Clock) -> Entries:
    return Entries(store, wall_clock=clock)


@pytest.fixture
def flights(store: Redis, entries: Entries, clock: Clock) -> Flights:
    return Flights(store, entries, wall_clock=clock)


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid4().hex}"


@pytest.fixture
def name() -> str:
    return uuid4().hex * 2


def new_id() -> str:
    return uuid4().hex


# -- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"sealed", bytes(range(256))])
async def test_what_is_put_is_got_with_its_age(
    flights: Flights, clock: Clock, tenant: str, name: str, value: bytes
) -> None:
    entries = flights.entries
    await entries.put(tenant, name, value, ttl_s=60)
    clock.advance(12.9)
    assert await entries.get(tenant, name) == Entry(value, 12)
    assert await entries.get_many(tenant, ["0" * 64, name]) == [None, Entry(value, 12)]
    assert await flights.look_up(tenant, name) == Found("hit", entry=Entry(value, 12))


async def test_several_entries_are_put_at_once(entries: Entries, tenant: str) -> None:
    pairs = [(new_id() * 2, b"one"), (new_id() * 2, b"two")]
    await entries.put_many(tenant, pairs, ttl_s=60)
    found = await entries.get_many(tenant, [name for name, _ in pairs])
    assert found == [Entry(b"one", 0), Entry(b"two", 0)]


async def test_an_entry_is_only_its_tenants(entries: Entries, flights: Flights, tenant: str, name: str) -> None:
    await entries.put(tenant, name, b"sealed", ttl_s=60)
    assert await entries.get("bob", name) is None
    assert await entries.get_many("bob", [name]) == [None]
    assert (await flights.look_up("bob", name)).word == "none"
    assert not await entries.delete("bob", name)
    assert await entries.get(tenant, name) is not None


async def test_an_entry_has_a_life_and_a_versioned_name(store: Redis, entries: Entries, tenant: str, name: str) -> None:
    await entries.put(tenant, name, b"sealed", ttl_s=60)
    await entries.put_many(tenant, [("1" * 64, b"sealed")], ttl_s=60)
    for fingerprint in (name, "1" * 64):
        assert 0 < await store.ttl(f"v1:entry:{{{tenant}}}:{fingerprint}") <= 60


async def test_a_deleted_entry_is_gone_and_a_second_deletion_finds_none(
    entries: Entries, tenant: str, name: str
) -> None:
    await entries.put(tenant, name, b"sealed", ttl_s=60)
    assert [await entries.delete(tenant, name), await entries.delete(tenant, name)] == [True, False]
    assert await entries.get(tenant, name) is None


async def test_a_clock_that_was_set_back_makes_no_negative_age(
    entries: Entries, clock: Clock, tenant: str, name: str
) -> None:
    await entries.put(tenant, name, b"sealed", ttl_s=60)
    clock.advance(-300)
    assert await entries.get(tenant, name) == Entry(b"sealed", 0)


async def test_an_entry_too_short_to_be_one_is_none(
    store: Redis, entries: Entries, flights: Flights, tenant: str, name: str
) -> None:
    await store.set(names.entry(tenant, name), b"1234567")
    assert await entries.get(tenant, name) is None
    assert (await flights.look_up(tenant, name)).word == "none"


async def test_an_entry_that_is_older_than_asked_for_is_none(
    entries: Entries, flights: Flights, clock: Clock, tenant: str, name: str
) -> None:
    await entries.put(tenant, name, b"sealed", ttl_s=60)
    clock.advance(10.5)
    assert (await flights.look_up(tenant, name, max_age_s=11)).word == "hit"
    assert (await flights.look_up(tenant, name, max_age_s=10)).word == "none"
    assert (await flights.look_up(tenant, name, max_age_s=10, own_id=new_id())).word == "lead"


async def test_a_store_that_is_away_is_one_error(store: Redis, tenant: str, name: str) -> None:
    await store.aclose()
    nowhere = connect("redis://127.0.0.1:9")
    entries = Entries(nowhere)
    flights = Flights(nowhere, entries)
    for call in (
        entries.get(tenant, name),
        entries.get_many(tenant, [name]),
        entries.put(tenant, name, b"x", ttl_s=1),
        entries.put_many(tenant, [(name, b"x")], ttl_s=1),
        entries.delete(tenant, name),
        flights.look_up(tenant, name),
        flights.append(tenant, name, new_id(), [b"x"], first=0),
        flights.read(tenant, name, new_id(), first=0, follower=new_id()),
        flights.renew(tenant, name, new_id()),
        flights.release(tenant, name, new_id(), unless_followed=True),
        flights.leave(tenant, name, new_id(), new_id()),
        Inventory(nowhere).statistics(),
        Inventory(nowhere).purge(within_s=1),
    ):
        with pytest.raises(StoreUnavailable) as failed:
            await call
        assert (failed.value.status, failed.value.code) == (503, "cache_store_unavailable")
    await nowhere.aclose()


# -- flights ----------------------------------------------------------------------------------------------------------


async def test_of_many_who_look_up_at_once_one_leads_and_all_others_follow_it(
    flights: Flights, tenant: str, name: str
) -> None:
    found = await asyncio.gather(*(flights.look_up(tenant, name, own_id=new_id()) for _ in range(30)))
    (lead,) = [one for one in found if one.word == "lead"]
    assert {one.flight for one in found if one.word == "follow"} == {lead.flight}
    assert (await flights.look_up("bob", name, own_id=new_id())).word == "lead"


async def test_a_followers_frames_are_the_leaders_in_their_order_and_end_with_it(
    flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    me = new_id()
    assert await flights.read(tenant, name, lead, first=0, follower=me) == ("open", [])
    assert await flights.append(tenant, name, lead, [b"a", b"b"], first=0)
    assert await flights.read(tenant, name, lead, first=0, follower=me) == ("open", [b"a", b"b"])
    assert await flights.append(tenant, name, lead, [b"c"], first=2, ending="ok")
    assert await flights.read(tenant, name, lead, first=2, follower=me) == ("ended", [b"c"])
    assert await flights.read(tenant, name, lead, first=3, follower=me) == ("ended", [])
    assert not await flights.append(tenant, name, lead, [b"d"], first=3)


async def test_a_frame_that_is_sent_twice_is_there_once(flights: Flights, tenant: str, name: str) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    for _ in range(2):
        assert await flights.append(tenant, name, lead, [b"a", b"b"], first=0)
    assert await flights.append(tenant, name, lead, [b"b", b"c"], first=1)
    assert (await flights.read(tenant, name, lead, first=0, follower=new_id()))[1] == [b"a", b"b", b"c"]


async def test_a_flight_of_which_frames_were_forgotten_is_lost_to_all(
    store: Redis, flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.append(tenant, name, lead, [b"a", b"b"], first=0)
    await store.delete(names.flight(tenant, name, lead)[1])
    assert (await flights.read(tenant, name, lead, first=0, follower=new_id()))[0] == "lost"
    assert not await flights.append(tenant, name, lead, [b"c"], first=2)


async def test_a_flight_that_grows_too_large_is_given_up(flights: Flights, tenant: str, name: str) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    half = bytes(MAX_FLIGHT_BYTES // 2)
    assert await flights.append(tenant, name, lead, [half, half], first=0)
    assert not await flights.append(tenant, name, lead, [b"x"], first=2)
    assert (await flights.read(tenant, name, lead, first=0, follower=new_id()))[0] == "lost"


async def test_an_entry_ends_its_writers_flight_and_answers_those_who_followed(
    entries: Entries, flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    follow = await flights.look_up(tenant, name, own_id=(me := new_id()))
    await entries.put(tenant, name, b"sealed", ttl_s=60, flight=lead)
    assert await flights.read(tenant, name, follow.flight, first=0, follower=me) == ("ended", [])
    assert (await flights.look_up(tenant, name, own_id=new_id())).word == "hit"


async def test_an_entry_of_somebody_who_leads_no_more_leaves_the_new_leaders_flight_alone(
    entries: Entries, flights: Flights, tenant: str, name: str
) -> None:
    old = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.release(tenant, name, old, unless_followed=False)
    new = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await entries.put(tenant, name, b"sealed", ttl_s=60, flight=old)
    assert await flights.renew(tenant, name, new) == (True, 0)


async def test_a_flight_that_ended_well_answers_whoever_comes_before_its_entry_does(
    flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.append(tenant, name, lead, [b"a"], first=0, ending="ok")
    assert await flights.look_up(tenant, name, own_id=new_id()) == Found("follow", lead)


async def test_a_flight_that_failed_elects_one_more_and_never_a_third(flights: Flights, tenant: str, name: str) -> None:
    first = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.append(tenant, name, first, [b"x"], first=0, ending="closed")
    # Of all whom it failed one leads again; the others follow that one, also when it has failed already.
    second = await flights.look_up(tenant, name, own_id=new_id(), failed_id=first)
    assert second.word == "lead"
    await flights.append(tenant, name, second.flight, [b"x"], first=0, ending="closed")
    for _ in range(3):
        late = await flights.look_up(tenant, name, own_id=new_id(), failed_id=first)
        assert late == Found("follow", second.flight)
    assert (await flights.look_up(tenant, name, own_id=new_id())).word == "lead"  # whoever comes anew tries anew


async def test_those_whom_a_flight_failed_read_of_its_end_also_when_the_next_one_is_under_way(
    flights: Flights, tenant: str, name: str
) -> None:
    first = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.append(tenant, name, first, [b"a", b"failed"], first=0, ending="closed")
    second = await flights.look_up(tenant, name, own_id=new_id(), failed_id=first)
    assert await flights.read(tenant, name, first, first=1, follower=new_id()) == ("open", [b"failed"])
    assert await flights.read(tenant, name, first, first=2, follower=new_id()) == ("lost", [])
    assert await flights.renew(tenant, name, second.flight) == (True, 0)  # who reads of the old follows not the new


async def test_a_leader_that_stays_away_loses_its_lease_to_one_other(
    store: Redis, flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    assert (await flights.renew(tenant, name, lead))[0]
    await store.hset(names.flight(tenant, name, lead)[0], "until", 1)
    assert (await flights.read(tenant, name, lead, first=0, follower=new_id()))[0] == "lost"
    found = await asyncio.gather(*(flights.look_up(tenant, name, own_id=new_id()) for _ in range(10)))
    assert sorted(one.word for one in found) == ["follow"] * 9 + ["lead"]
    assert await flights.renew(tenant, name, lead) == (False, 0)
    assert not await flights.append(tenant, name, lead, [b"late"], first=0)


async def test_a_gateway_whose_calls_break_off_is_gone_at_once_for_every_replica(stack: Platform, store: Redis) -> None:
    elsewhere = Gateways(store)  # another replica of the cache, which sees none of its calls
    gateway = new_id()[: names.GATEWAY_DIGITS]
    token = HopSigner(SECRETS["cache_hop_secret"], "cache").authorization(HopIdentity("platform", "presence"))
    async with create_client(base_url=stack.cache) as client, asyncio.timeout(BOUND_S):
        calls = [
            asyncio.create_task(client.post(f"/v1/gateways/{gateway}/presence", headers={"authorization": token}))
            for _ in range(2)
        ]
        while not await store.exists(names.gateway(gateway)):
            pass
        calls[0].cancel()  # the other one stays open
        await asyncio.gather(calls[0], return_exceptions=True)
        assert not await elsewhere.is_gone(gateway)
        calls[1].cancel()
        while not await elsewhere.is_gone(gateway):
            pass


async def test_a_gateway_that_nobody_sees_any_more_is_gone_and_one_of_which_nothing_is_known_is_not(
    store: Redis,
) -> None:
    here, elsewhere = Gateways(store), Gateways(store)
    gateway = new_id()[: names.GATEWAY_DIGITS]
    assert not await elsewhere.is_gone(gateway)
    async with here.noting(), asyncio.timeout(BOUND_S):
        with here.seen(gateway):
            while not await store.exists(names.gateway(gateway)):
                pass
            await here.lose(gateway)  # one call of several
            assert not await elsewhere.is_gone(gateway)
    # The replica that saw it stands still, or is no more.
    await store.pexpire(names.gateway(gateway), REMEMBERED_MS - GONE_AFTER_MS - 1)
    assert await elsewhere.is_gone(gateway)
    with elsewhere.seen(gateway):  # it has come here
        assert not await elsewhere.is_gone(gateway)


async def test_a_lease_is_kept_while_somebody_follows_and_let_go_when_nobody_does(
    flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.look_up(tenant, name, own_id=(me := new_id()))
    assert await flights.renew(tenant, name, lead) == (True, 1)
    assert not await flights.release(tenant, name, lead, unless_followed=True)
    await flights.leave(tenant, name, lead, me)
    assert await flights.renew(tenant, name, lead) == (True, 0)
    assert await flights.release(tenant, name, lead, unless_followed=True)
    assert (await flights.look_up(tenant, name, own_id=new_id())).word == "lead"


async def test_a_follower_that_vanished_counts_for_nothing(
    store: Redis, flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await flights.look_up(tenant, name, own_id=(me := new_id()))
    await store.zadd(names.flight(tenant, name, lead)[2], {me: 1})
    assert await flights.renew(tenant, name, lead) == (True, 0)


async def test_nothing_is_kept_for_ever(store: Redis, entries: Entries, flights: Flights, tenant: str) -> None:
    for ending in ("", "ok", "closed"):
        name = new_id() * 2
        lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
        await flights.look_up(tenant, name, own_id=(me := new_id()))
        await flights.append(tenant, name, lead, [b"a"], first=0, ending=ending)
        await flights.read(tenant, name, lead, first=0, follower=me)
    await entries.put(tenant, name, b"x", ttl_s=60)
    kept = [key async for key in store.scan_iter(match=f"*{{{tenant}}}*")]
    assert len(kept) == 3 * 3 + 2, kept
    assert all([await store.pttl(key) > 0 for key in kept])


# -- bells ------------------------------------------------------------------------------------------------------------


async def test_who_waits_for_a_flight_is_woken_when_it_changes_and_by_no_other(
    store: Redis, flights: Flights, tenant: str, name: str
) -> None:
    bells = Bells(store)
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    async with bells.listening(), asyncio.timeout(BOUND_S):
        with bells.at(lead) as mine, bells.at(names.followers_of(lead)) as leaders, bells.at(new_id()) as others:
            while not mine.is_set():  # the listener may not listen yet
                await flights.append(tenant, name, lead, [b"a"], first=0)
                await rung(mine, 0.05)
            assert not leaders.is_set()
            await flights.look_up(tenant, name, own_id=new_id())
            await leaders.wait()
            assert not others.is_set()


async def test_the_bells_come_back_with_the_store(store: Redis, flights: Flights, tenant: str, name: str) -> None:
    bells = Bells(store)
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    async with bells.listening(), asyncio.timeout(BOUND_S):
        with bells.at(lead) as bell:
            for _ in range(2):
                bell.clear()
                while not bell.is_set():
                    await flights.append(tenant, name, lead, [b"a"], first=0)
                    await rung(bell, 0.05)
                await store.client_kill_filter(_type="pubsub")


# -- what an operator sees and does -----------------------------------------------------------------------------------


async def test_statistics_count_by_tenant(store: Redis, entries: Entries, flights: Flights, tenant: str) -> None:
    name = new_id() * 2
    await flights.look_up(tenant, name, own_id=new_id())
    await flights.look_up(tenant, name, own_id=new_id())
    await entries.put(tenant, name, b"x", ttl_s=60)
    await flights.look_up(tenant, name)
    seen = await Inventory(store).statistics()
    assert seen["tenants"][tenant] == {"hits": 1, "misses": 1, "follows": 1, "stored": 1}
    assert seen["total"]["stored"] >= 1
    assert seen["store"]["max_bytes"] > seen["store"]["used_bytes"] > 0


async def test_a_purge_takes_what_is_named_and_nothing_else(store: Redis, entries: Entries, clock: Clock) -> None:
    tenants = [f"t.{new_id()}", f"t-{new_id()}"]
    models = [new_id()[:16], new_id()[:16]]
    inventory = Inventory(store, wall_clock=clock)
    rest = "0" * 48

    async def fill() -> None:
        for tenant in tenants:
            for model in models:
                await entries.put(tenant, model + rest, b"x", ttl_s=60)

    async def left() -> list[tuple[int, int]]:
        return [
            (row, column)
            for row, tenant in enumerate(tenants)
            for column, model in enumerate(models)
            if await entries.get(tenant, model + rest) is not None
        ]

    await fill()
    assert await inventory.purge(tenant=tenants[0], model=models[0], within_s=BOUND_S) == {
        "deleted": 1,
        "is_complete": True,
    }
    assert await left() == [(0, 1), (1, 0), (1, 1)]
    await inventory.purge(model=models[1], within_s=BOUND_S)
    assert await left() == [(1, 0)]
    await inventory.purge(tenant=tenants[1], within_s=BOUND_S)
    assert await left() == []
    await fill()
    clock.advance(10)
    await entries.put(tenants[0], models[0] + rest, b"x", ttl_s=60)
    await inventory.purge(tenant=tenants[0], older_than_s=5, within_s=BOUND_S)
    await inventory.purge(tenant=tenants[1], older_than_s=15, within_s=BOUND_S)
    assert await left() == [(0, 0), (1, 0), (1, 1)]


async def test_a_purge_leaves_flights_and_counters_alone(
    store: Redis, entries: Entries, flights: Flights, tenant: str, name: str
) -> None:
    lead = (await flights.look_up(tenant, name, own_id=new_id())).flight
    await entries.put(tenant, "1" * 64, b"x", ttl_s=60)
    await Inventory(store).purge(tenant=tenant, within_s=BOUND_S)
    assert await flights.renew(tenant, name, lead) == (True, 0)
    assert (await Inventory(store).statistics())["tenants"][tenant]["stored"] == 1


async def test_a_purge_whose_time_is_up_says_so(store: Redis, entries: Entries, tenant: str) -> None:
    await entries.put_many(tenant, [(new_id() * 2, b"x") for _ in range(2_000)], ttl_s=60)
    assert not (await Inventory(store).purge(tenant=tenant, within_s=0))["is_complete"]
    assert (await Inventory(store).purge(tenant=tenant, within_s=BOUND_S))["is_complete"]
    assert [key async for key in store.scan_iter(match=names.entries_like(tenant, None))] == []
