from __future__ import annotations

import asyncio
import time

import pytest

from common.lateness import answered_within

BOUND_S = 5
TURNS = 3


async def some_turns() -> None:
    """As an answer takes that has arrived: it has still to be read."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def never_answered(within_s: float) -> None:
    async with answered_within(within_s):
        await asyncio.Event().wait()


async def test_who_never_answers_is_late() -> None:
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(TimeoutError):
            await never_answered(0.01)


@pytest.mark.parametrize("after_s", [0, 0.1])
async def test_what_the_event_loop_is_late_with_is_nobody_elses_lateness(after_s: float) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()

    def keep_from_its_sockets() -> None:
        time.sleep(0.25)
        loop.call_later(0.1, arrived.set)

    async with answered_within(0.3):
        loop.call_later(after_s, keep_from_its_sockets)
        await arrived.wait()  # after 0.35 s and more, of which a quarter of a second was the loop's own
        await some_turns()


async def test_an_event_loop_that_is_always_late_waits_twice_as_long_and_no_longer() -> None:
    loop = asyncio.get_running_loop()
    turns = 0

    def work() -> None:
        nonlocal turns
        turns += 1
        time.sleep(0.02)
        loop.call_soon(work)

    loop.call_soon(work)
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(TimeoutError):
            await never_answered(0.04)
    assert turns * 0.02 < 0.04 * 2 + 0.02 * 12  # the grace turns are such turns as well


async def test_who_answers_in_time_is_not_disturbed_by_the_time_that_was_left() -> None:
    async with answered_within(0.001):
        pass
    await asyncio.sleep(0.005)
