"""Notices when the other side of a request goes: a gateway that dies closes its connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive


async def while_present(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` as long as the caller is there; False: it went, and the work was cancelled."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():  # also if the work has just ended: nobody would hear of it
            return False
        working.result()
        return True
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
