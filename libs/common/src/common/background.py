"""Background tasks: beside a body, and ended for good."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

AGAIN_S = 0.2


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until they are over, whatever became of them.

    Again and again: a library may swallow a cancellation (redis-py was seen to, when it was closing a connection), and
    a loop that survives every error survives that as well.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work`, which ends by itself never, beside the body."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)
