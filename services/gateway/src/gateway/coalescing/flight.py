"""One answer that is on its way into this process, and the calls here that wait for it.

Where it comes from (the cache, inference, another replica's flight) is its feeder's business; those who wait read the
same pieces, each at its own pace. None of them slows the feeder: what is too far behind is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import orjson

from common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from gateway.caching.hot_entries import Hit
    from gateway.call import Call

MAX_BYTES = 8 * 1024 * 1024
"""Of the pieces that are kept for those who are behind."""
_UNBOUND = contextlib.nullcontext()
ENOUGH_OF_ITS_TIME = 0.5
"""A caller joins a flight whose leader has set a time limit of its own only if that lasts for half of the caller's."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known once the answer begins."""

    is_stream: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of inference's that a caller may know."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is answered; plain data, so that each waiter makes an exception of its own."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    is_told: bool = False
    """The pieces end with an error event of the upstream's."""

    @property
    def is_shared(self) -> bool:
        """A 4xx is what everybody would get, but for 429, which is about who asked; the rest one more try may mend."""
        return self.status < 500 and self.status != 429  # noqa: PLR2004  # the status is the name

    @classmethod
    def of(cls, error: ServiceError, *, is_told: bool = False) -> Failure:
        return cls(error.status, error.body(), error.headers, is_told)

    def error(self) -> ServiceError:
        """As an exception, for an answer that had begun."""
        try:
            told = orjson.loads(self.body)["error"]
            error = ServiceError(str(told["message"]), param=told.get("param"), code=told.get("code"))
            error.type = str(told.get("type"))
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            error = ServiceError("The upstream's error was none of ours.", code="upstream_error")
        error.status = self.status
        error.scope, error.is_told = "upstream", True
        return error


class FlightFailedError(Exception):
    """The one call that was made for all failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.status)
        self.failure = failure


class FlightLostError(Exception):
    """Nobody knows any more how it goes on: the leader died, the store forgot, or the waiter fell too far behind."""


class Flight:
    """`take_off`, `add` and one of `land`, `fail`, `lose`, `land_on` feed it; `began`, `landed` and `pieces` read."""

    __slots__ = (
        "_base", "_bytes", "_changed", "_pieces", "deserted", "failure", "has_ended", "head", "hit", "id", "is_lost",
        "leader", "max_bytes", "traceparent", "waiting",
    )  # fmt: skip

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.id = uuid4().hex
        """Changes to the store's id of the flight, once that is known."""
        self.head: Head | None = None
        self.hit: Hit | None = None
        self.failure: Failure | None = None
        self.is_lost = False
        self.has_ended = False
        self.leader: Call | None = None
        """The call in whose name inference was asked, by this process."""
        self.traceparent = ""
        """Of the request whose call brings the answer (W3C), wherever it is; empty: unknown."""
        self.waiting: list[Call] = []
        self.deserted: Callable[[], None] = lambda: None
        """Called when nobody waits any more."""
        self.max_bytes = max_bytes
        self._pieces: deque[bytes] = deque()
        self._base = 0
        self._bytes = 0
        self._changed: list[asyncio.Future[None]] = []

    # -- those who wait ----------------------------------------------------------------------------------------------

    def board(self, call: Call) -> None:
        self.waiting.append(call)

    def may_be_joined_by(self, call: Call) -> bool:
        """It goes on, nothing of it is gone, and the haste of those who wait does not end it in the caller's face."""
        if self.has_ended or not self.is_whole_yet:
            return False
        if not self.waiting:
            return True
        leading = self.leader or self.most_patient()
        if not leading.is_hurried:
            return True
        return leading.deadline.remaining_s() >= call.deadline.remaining_s() * ENOUGH_OF_ITS_TIME

    def most_patient(self) -> Call:
        """Of those who wait, the one in whose name to ask: the first without haste, else the one with the most time."""
        unhurried = (call for call in self.waiting if not call.is_hurried)
        return next(unhurried, None) or max(self.waiting, key=lambda call: call.deadline.at)

    def leave(self, call: Call) -> None:
        self.waiting = [other for other in self.waiting if other is not call]
        if not self.waiting and not self.has_ended:
            self.deserted()

    async def began(self) -> None:
        """Return once there is a first piece, or an entry. Raises `FlightFailedError` or `FlightLostError`."""
        while not (self.has_ended or (self.head is not None and self._base + len(self._pieces))):
            await self.change()
        self.raise_failure()

    async def landed(self) -> None:
        """Return once the answer is whole. Raises as above."""
        while not self.has_ended:
            await self.change()
        self.raise_failure()

    def content(self) -> bytes:
        """All pieces. Raises `FlightLostError` when the first of them are gone."""
        if self._base:
            raise FlightLostError
        return b"".join(self._pieces)

    def pieces(self, bound: AbstractContextManager[object] = _UNBOUND) -> Pieces:
        """Each piece from the first, as it comes; `bound` is entered for each wait. Raises as above."""
        return Pieces(self, bound)

    def piece(self, place: int) -> bytes:
        """Raises `FlightLostError` when it is gone."""
        if place < self._base:
            raise FlightLostError
        return self._pieces[place - self._base]

    def since(self, place: int) -> list[bytes]:
        """The pieces from `place` on. Raises `FlightLostError` when some of them are gone."""
        return [self.piece(number) for number in range(place, self.count)]

    @property
    def count(self) -> int:
        return self._base + len(self._pieces)

    @property
    def is_whole_yet(self) -> bool:
        """Nothing of it is gone, so that whoever comes now can still have all of it."""
        return self._base == 0

    async def change(self) -> None:
        # No asyncio.Event: to wait for one costs twice as much, and each change would need a new one.
        changed = asyncio.get_running_loop().create_future()
        self._changed.append(changed)
        await changed

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise FlightFailedError(self.failure)
        if self.is_lost:
            raise FlightLostError

    # -- the feeder --------------------------------------------------------------------------------------------------

    def take_off(self, head: Head) -> None:
        self.head = head

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._bytes += len(piece)
        while self._bytes > self.max_bytes and len(self._pieces) > 1:
            self._bytes -= len(self._pieces.popleft())
            self._base += 1
        self._tell()

    def land(self) -> None:
        self.has_ended = True
        self._tell()

    def land_on(self, hit: Hit) -> None:
        """The answer was there already."""
        self.hit = hit
        self.land()

    def fail(self, failure: Failure) -> None:
        if not self.has_ended:
            self.failure = failure
            self.land()

    def lose(self) -> None:
        if not self.has_ended:
            self.is_lost = True
            self.land()

    def _tell(self) -> None:
        waiting, self._changed = self._changed, []
        for changed in waiting:
            if not changed.done():  # else whoever waited was cancelled
                changed.set_result(None)


class Pieces:
    """Those of a flight, for one of those who wait."""

    __slots__ = ("_bound", "_flight", "_place")

    def __init__(self, flight: Flight, bound: AbstractContextManager[object]) -> None:
        self._flight = flight
        self._bound = bound
        self._place = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        flight = self._flight
        while self._place >= flight.count:
            if flight.has_ended:
                flight.raise_failure()
                raise StopAsyncIteration
            with self._bound:
                await flight.change()
        self._place += 1
        return flight.piece(self._place - 1)
