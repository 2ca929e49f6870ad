"""Shows the cache that this process lives, so that its flights end with it and not with their leases."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from common.background import end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.coalescing.flight_client import FlightClient

EVERY_S = 2.0
"""Half as long as the cache keeps such a call open: one always is, also when the event loop is two seconds late. The
calls break off with the process, whatever it dies of; nothing here has to happen then.
"""
AGAIN_S = 0.5


@contextlib.asynccontextmanager
async def shown(client: FlightClient) -> AsyncIterator[None]:
    """Within: be there. Nobody waits for these calls; one that fails is made again."""
    calls: set[asyncio.Task[None]] = set()

    async def show() -> None:
        while True:
            call = asyncio.create_task(client.be_present())
            calls.add(call)
            call.add_done_callback(calls.discard)
            await asyncio.wait({call}, timeout=EVERY_S)
            if call.done():
                await asyncio.sleep(AGAIN_S)

    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        await end(showing, *calls)
