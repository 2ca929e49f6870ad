"""How many calls one target gets at a time: a limit that feels its way (AIMD), and a short queue in front of it.

+1 after a clean window (as many successes as the limit, the limit having been reached), x 0.9 on a 429, a 503 or a
first event that did not come in time; not by duration, which only follows the number of tokens. Of the refusals of one
window only the first counts: they tell of the same moment. So of those without any success between them: a target that
accepts nothing is away, not crowded, and a limit that an outage had brought to its floor would grow again by one for
each window of calls that may take 10 s each (ADR 0011). Source: TCP's congestion avoidance, RFC 5681, 3.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.identity import Priority

START = 256
"""Or the target's cap if that is lower. High, since a limit that is too high is lowered by a tenth at each refusal, and
one that is too low grows by one for each window of slow calls."""
DECREASE = 0.9
QUEUE_SHARE = 0.5
WAIT_S = 0.5
BATCH_SHARE = 0.8
"""Of the limit: the rest is kept for those who wait in front of a screen."""


class SaturatedError(Exception):
    """No slot, and none became free in time."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """`queue_full` or `wait`."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    epoch: int


class ConcurrencyLimit:
    def __init__(self, *, floor: int, ceiling: int) -> None:
        self.in_flight = 0
        self.refusals = 0
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._limit = float(min(max(START, floor), ceiling))
        self._epoch = 0
        self._clean = 0
        self._was_reached = False
        self._has_accepted = True
        """Since the limit was last lowered."""
        self._waiting: dict[Priority, deque[asyncio.Future[Slot]]] = {"interactive": deque(), "batch": deque()}

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def take(self, priority: Priority) -> Slot | None:
        """A slot at once, if there is one and nobody who came before waits for it."""
        if not self._has_room(priority) or self._waiting[priority]:
            return None
        return self._slot()

    async def acquire(self, priority: Priority, wait_s: float = WAIT_S) -> Slot:
        """A slot, after at most `wait_s`. Raises `SaturatedError`."""
        if (slot := self.take(priority)) is not None:
            return slot
        if self.waiting >= max(1, int(self._limit * QUEUE_SHARE)):
            self.refusals += 1
            raise SaturatedError("queue_full")
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        queue = self._waiting[priority]
        queue.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release()  # it came as we left
            elif turn in queue:
                queue.remove(turn)
            if not isinstance(error, TimeoutError):
                raise
            self.refusals += 1
            raise SaturatedError("wait") from None

    def release(self) -> None:
        self.in_flight -= 1
        self._hand_on()

    def succeeded(self) -> None:
        self._clean += 1
        self._has_accepted = True
        if self._clean >= self._limit:
            if self._was_reached:
                self._limit = min(self._limit + 1, self._ceiling)
            self._clean = 0
            self._was_reached = False
            self._hand_on()

    def congested(self, slot: Slot) -> None:
        """The call in `slot` was refused for load, or stayed without a first event."""
        if slot.epoch == self._epoch and self._has_accepted:
            self._limit = max(self._limit * DECREASE, self._floor)
            self._epoch += 1
            self._has_accepted = False
            self._clean = 0
            self._was_reached = False

    def _has_room(self, priority: Priority) -> bool:
        limit = self.limit if priority == "interactive" else max(1, int(self._limit * BATCH_SHARE))
        return self.in_flight < limit

    def _slot(self) -> Slot:
        self.in_flight += 1
        self._was_reached = self._was_reached or self.in_flight >= self.limit
        return Slot(self._epoch)

    def _hand_on(self) -> None:
        for priority, queue in self._waiting.items():
            while queue and self._has_room(priority):
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(self._slot())
