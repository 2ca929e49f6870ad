"""Sends a flight's frames to one follower as they come, with a sign of life four times a second."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.responses import Response

from cache.bells import rung
from cache.errors import StoreUnavailable
from cache.names import gateway_of
from cache.presence import while_present
from common import framing, wire

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from cache.bells import Bells
    from cache.flights import Flights
    from cache.gateways import Gateways

SIGN_OF_LIFE_S = 0.25
"""Also how often a follower says that it is there, and looks whether a bell was lost."""


class FrameStream(Response):
    """Ends when the flight has ended or is lost: the sealed frames themselves say which. Who goes is noted."""

    media_type = wire.OCTETS

    def __init__(  # noqa: PLR0913  # three parts, and the rest by keyword
        self,
        flights: Flights,
        gateways: Gateways,
        bells: Bells,
        flight: tuple[str, str, str],
        *,
        follower: str,
        first: int,
    ) -> None:
        self._flights = flights
        self._gateways = gateways
        self._bells = bells
        self._flight = flight
        self._follower = follower
        self._told = first
        self.status_code = 200
        self.background = None
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's shape
        try:
            await while_present(receive, self._send(send))
        finally:
            with contextlib.suppress(StoreUnavailable):
                await asyncio.shield(self._flights.leave(*self._flight, self._follower))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with contextlib.suppress(StoreUnavailable):  # then the flight is lost
            await self._send_frames(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, send: Send) -> None:
        leader = gateway_of(self._flight[2])
        with self._bells.at(self._flight[2], leader) as bell:
            while True:
                bell.clear()
                state, frames = await self._flights.read(*self._flight, first=self._told, follower=self._follower)
                self._told += len(frames)
                body = framing.pack(frames) if frames else framing.KEEP_ALIVE
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if state != "open":
                    return
                if not frames:
                    if await self._gateways.is_gone(leader):
                        await self._flights.release(*self._flight, unless_followed=False)
                        return
                    await rung(bell, SIGN_OF_LIFE_S)
