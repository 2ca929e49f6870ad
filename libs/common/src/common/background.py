"""Ends background tasks for good."""

from __future__ import annotations

import asyncio
from typing import Any

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
