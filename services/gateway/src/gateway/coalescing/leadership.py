"""The lease of a flight that this process feeds: kept while the work goes on; its frames go out if somebody follows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.coalescing import frames
from gateway.coalescing.flight import FlightLostError

if TYPE_CHECKING:
    from common.identity import HopIdentity
    from gateway.coalescing.flight import Failure, Flight
    from gateway.coalescing.flight_client import FlightClient
    from gateway.coalescing.frames import FrameSealer

ATTENDS_AFTER_S = 0.25
"""A quicker answer never attends: its entry, or its end, comes before anybody could miss it."""
TRY_AGAIN_S = 0.5
PACE_S = 0.02
"""Between two appends: what came meanwhile goes together. Fifty a second is as fast as anybody reads."""
_TRIES = 2


class Leadership:
    """`attend` runs beside the work; `end` is awaited once, before the lease may be forgotten."""

    def __init__(
        self, flight: Flight, client: FlightClient, sealer: FrameSealer, *, name: str, identity: HopIdentity
    ) -> None:
        self.is_held = True
        self.is_followed = False
        self._flight = flight
        self._id = flight.id
        self._client = client
        self._sealer = sealer
        self._name = name
        self._identity = identity
        self._sending = asyncio.Lock()
        self._pushing: asyncio.Task[None] | None = None
        self._has_sent_head = False
        self._pieces_sealed = 0
        self._unsent: list[bytes] = []
        self._taken = 0
        """Frames of which the cache said that it has them."""

    async def attend(self) -> None:
        """Renew the lease until the flight has ended, and learn who follows."""
        await asyncio.sleep(ATTENDS_AFTER_S)
        while self.is_held and not self._flight.has_ended:
            told = await self._client.attend(self._name, self._id, self._identity, is_followed=self.is_followed)
            if told is None:
                await asyncio.sleep(TRY_AGAIN_S)
            elif not told.is_held:
                self.is_held = False
            elif told.followers:
                self.has_followers()
            else:
                self.is_followed = False
                if not self._flight.waiting and not self._flight.has_ended:
                    self._flight.deserted()

    def has_followers(self) -> None:
        self.is_followed = True
        if self._pushing is None:
            self._pushing = asyncio.create_task(self._push())

    async def let_go(self) -> bool:
        """Give the lease up because nobody here waits. False: somebody elsewhere does, so the work has to go on."""
        if self.is_held and not await self._client.release(self._name, self._id, self._identity, unless_followed=True):
            self.has_followers()
            return False
        self.is_held = False
        return True

    async def end(self, word: str, failure: Failure | None = None) -> None:
        """Send what is left, and that it is over: `ok`, or `closed`, which speaks to nobody who comes later."""
        if self.is_held:
            await self._send(word, failure)
        await self.stop()

    async def stop(self) -> None:
        if self._pushing is not None:
            self._pushing.cancel()
            await asyncio.gather(self._pushing, return_exceptions=True)

    async def _push(self) -> None:
        while self.is_held and not self._flight.has_ended:
            await self._send("")
            await asyncio.sleep(PACE_S)
            if self._flight.count == self._pieces_sealed and not self._flight.has_ended:
                await self._flight.change()

    async def _send(self, ending: str, failure: Failure | None = None) -> None:
        async with self._sending:
            try:
                self._seal_news()
                if ending:
                    self._unsent.append(self._sealer.seal(frames.ending(failure)))
            except FlightLostError:  # larger than a flight may be
                await self.give_up()
                return
            if not self._unsent:
                return
            is_taken: bool | None = None
            for _ in range(_TRIES):
                is_taken = await self._client.append(
                    self._name, self._id, self._identity, self._unsent, first=self._taken, ending=ending
                )
                if is_taken:
                    self._taken += len(self._unsent)
                    self._unsent = []
                if is_taken is not None:
                    break
            if not is_taken:
                await self.give_up()

    async def give_up(self) -> None:
        """Nobody can follow any more, and the end of the lease tells them."""
        if not self.is_held:
            return
        self.is_held = False
        await self._client.release(self._name, self._id, self._identity, unless_followed=False)

    def _seal_news(self) -> None:
        flight = self._flight
        if flight.head is not None and not self._has_sent_head:
            self._has_sent_head = True
            self._unsent.append(self._sealer.seal(frames.head(flight.head, flight.traceparent)))
        news = flight.since(self._pieces_sealed)
        if news:
            self._pieces_sealed += len(news)
            self._unsent.append(self._sealer.seal(frames.pieces(news)))
