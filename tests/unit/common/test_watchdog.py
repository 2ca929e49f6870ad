from __future__ import annotations

import asyncio

import pytest

from common.deadline import Deadline
from common.streams.watchdog import Watchdog

SHORT_S = 0.01
LONG_S = 60
BOUND_S = 5


async def forever() -> None:
    await asyncio.Event().wait()


async def turn_for_ever(watchdog: Watchdog, *, is_hearing: bool = False) -> None:
    while True:
        with watchdog:
            await asyncio.sleep(0)
        if is_hearing:
            watchdog.heard()


async def test_a_wait_that_takes_too_long_is_a_timeout_and_the_task_goes_on() -> None:
    watchdog = Watchdog(SHORT_S)
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(TimeoutError), watchdog:
            await forever()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    assert not watchdog.is_past_deadline


async def test_it_bites_as_often_as_it_has_to() -> None:
    watchdog = Watchdog(SHORT_S)
    async with asyncio.timeout(BOUND_S):
        for _ in range(3):
            watchdog.heard()
            with pytest.raises(TimeoutError), watchdog:
                await forever()


async def test_what_is_no_hearing_prolongs_nothing() -> None:
    watchdog = Watchdog(SHORT_S)
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(TimeoutError):
            await turn_for_ever(watchdog)


async def test_what_is_heard_in_time_keeps_it_quiet_for_longer_than_its_limit() -> None:
    watchdog = Watchdog(0.2)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.5
    while loop.time() < end:
        with watchdog:
            await asyncio.sleep(0)
        watchdog.heard()


async def test_the_deadline_ends_the_wait_however_much_is_heard() -> None:
    watchdog = Watchdog(LONG_S, Deadline.after(SHORT_S))
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(TimeoutError):
            await turn_for_ever(watchdog, is_hearing=True)
    assert watchdog.is_past_deadline


async def test_time_outside_of_its_waits_is_not_bounded() -> None:
    watchdog = Watchdog(SHORT_S)
    with watchdog:
        await asyncio.sleep(0)
    await asyncio.sleep(SHORT_S * 3)  # the timer rings meanwhile, and nobody is bitten
    watchdog.heard()
    with watchdog:
        await asyncio.sleep(0)


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    started = asyncio.Event()

    async def work() -> None:
        watchdog = Watchdog(LONG_S)
        try:
            with watchdog:
                started.set()
                await forever()
        finally:
            watchdog.close()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_the_moment_of_the_bite_is_not_swallowed() -> None:
    started = asyncio.Event()

    async def work() -> None:
        with Watchdog(SHORT_S):
            try:
                started.set()
                await forever()
            finally:
                task.cancel()  # as a client that leaves just then

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_wait_stays_what_it_is() -> None:
    watchdog = Watchdog(LONG_S)
    with pytest.raises(ValueError, match="mine"), watchdog:
        raise ValueError("mine")
    watchdog.close()
