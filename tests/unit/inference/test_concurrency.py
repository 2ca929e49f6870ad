from __future__ import annotations

import asyncio

import pytest

from inference.concurrency import START, ConcurrencyLimit, SaturatedError, Slot

NO_WAIT_S = 0.001


def taken(limit: ConcurrencyLimit, count: int) -> list[Slot]:
    slots = [limit.take("interactive") for _ in range(count)]
    assert None not in slots
    return [slot for slot in slots if slot is not None]


def at_most(ceiling: int, floor: int = 4) -> ConcurrencyLimit:
    return ConcurrencyLimit(floor=floor, ceiling=ceiling)


def test_no_more_calls_are_in_flight_than_the_limit() -> None:
    limit = at_most(10)
    taken(limit, 10)
    assert limit.take("interactive") is None
    limit.release()
    assert limit.take("interactive") is not None


def test_batch_work_gets_four_fifths_of_the_limit() -> None:
    limit = at_most(10)
    assert [limit.take("batch") is not None for _ in range(9)] == [True] * 8 + [False]
    assert limit.take("interactive") is not None


def test_a_refusal_costs_a_tenth_once_in_a_window_and_never_what_is_below_the_floor() -> None:
    limit = at_most(1000)
    slots = taken(limit, START)
    for slot in slots:
        limit.congested(slot)
    assert limit.limit == int(START * 0.9)
    for _ in range(100):
        limit.succeeded()
        limit.congested(Slot(limit._epoch))
    assert limit.limit == 4


def test_an_outage_costs_a_tenth_and_no_more_however_long_it_is() -> None:
    limit = at_most(1000)
    for _ in range(1_000):
        limit.congested(Slot(limit._epoch))
    assert limit.limit == int(START * 0.9)


def test_a_clean_window_at_the_limit_raises_it_by_one_and_an_idle_one_does_not() -> None:
    limit = at_most(1000)
    for _ in range(START):
        limit.succeeded()
    assert limit.limit == START
    taken(limit, START)
    for _ in range(START):
        limit.succeeded()
    assert limit.limit == START + 1


def test_the_ceiling_is_never_passed() -> None:
    limit = at_most(5)
    taken(limit, 5)
    for _ in range(100):
        limit.succeeded()
    assert limit.limit == 5


async def test_those_who_wait_come_in_turn_and_interactive_ones_first() -> None:
    limit = at_most(10)
    taken(limit, 10)
    order: list[str] = []

    async def wait(name: str, priority: str) -> None:
        await limit.acquire("batch" if priority == "batch" else "interactive", 5)
        order.append(name)

    waiting = []
    for name, priority in (("b", "batch"), ("i1", "interactive"), ("i2", "interactive")):
        waiting.append(asyncio.create_task(wait(name, priority)))
        await asyncio.sleep(0)
    assert limit.waiting == 3
    for _ in range(5):
        limit.release()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert order == ["i1", "i2", "b"]


async def test_a_wait_is_bounded_and_so_is_the_queue() -> None:
    limit = at_most(4)
    taken(limit, 4)
    waiting = [asyncio.create_task(limit.acquire("interactive", 0.05)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(SaturatedError, match="queue_full"):
        await limit.acquire("interactive", 5)
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [str(error) for error in told] == ["wait", "wait"]
    assert (limit.refusals, limit.waiting, limit.in_flight) == (3, 0, 4)


async def test_a_waiter_that_leaves_takes_nothing_with_it() -> None:
    limit = at_most(4)
    taken(limit, 4)
    gone, late = (asyncio.create_task(limit.acquire("interactive", 5)) for _ in range(2))
    await asyncio.sleep(0)
    limit.release()  # the slot goes to the one that is being cancelled
    gone.cancel()
    await asyncio.wait_for(late, 5)
    with pytest.raises(asyncio.CancelledError):
        await gone
    for _ in range(4):
        limit.release()
    assert (limit.in_flight, limit.waiting) == (0, 0)


async def test_a_slot_that_is_free_is_given_without_waiting() -> None:
    limit = at_most(4)
    assert await limit.acquire("interactive", NO_WAIT_S) is not None
