"""A background task ends when it is told to, also one that swallowed the first word."""

from __future__ import annotations

import asyncio
import contextlib

from common.background import end


async def test_a_loop_that_swallows_a_cancellation_is_told_again() -> None:
    swallowed = 0

    async def loop() -> None:
        nonlocal swallowed
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(task)
    assert (swallowed, task.cancelled()) == (1, True)


async def test_what_has_failed_or_ended_is_no_obstacle() -> None:
    async def fail() -> None:
        raise ValueError

    tasks = [asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.wait(tasks)
    await end(*tasks)
    await end()
