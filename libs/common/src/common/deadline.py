"""The caller's patience: a number of seconds that shrinks from hop to hop, and ends early when the caller hangs up."""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from common.errors import ClientGone, DeadlineExceeded, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.types import Receive

HOP_RESERVE_S = 0.05
"""What a hop keeps of the remaining time to answer in."""
LEAST_USEFUL_S = 0.25
"""With less than this left, work is refused at once instead of being started for nobody."""
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,3})?")
"""As JSON writes one, and Python: not `inf`, `nan`, `1_000` or digits of other scripts, which `float` takes as well."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock of this process. Only durations travel between processes."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Self:
        return cls(clock() + seconds, clock)

    def remaining_s(self) -> float:
        return self.at - self.clock()

    def budget_s(self, cap: float | None = None) -> float:
        """Seconds that a call to the next hop may take: `min(cap, remaining - 50 ms)`.

        Raises `DeadlineExceeded` when less than 250 ms remain: work is not started for a caller who is about to leave.
        """
        remaining = self.remaining_s()
        if remaining < LEAST_USEFUL_S:
            raise DeadlineExceeded("Too little of the request's time remained to start this work.")
        budget = remaining - HOP_RESERVE_S
        return budget if cap is None else min(cap, budget)


def positive_number(text: str, header: str) -> float:
    """The value of a header that says how long, in digits. Raises `InvalidRequest` naming the header."""
    value = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not 0 < value < math.inf:
        raise InvalidRequest(f"The header {header} has to be a positive number.", param=header, code="invalid_value")
    return value


class Patience:
    """Run the body of `async with` until the deadline passes (`DeadlineExceeded`) or the caller leaves (`ClientGone`).

    Whichever comes first cancels the body, so that upstream work stops. The request's own body must have been read:
    the watch is the only reader of `receive`.
    """

    __slots__ = ("_deadline", "_gone", "_receive", "_timeout", "_watch")

    def __init__(self, deadline: Deadline, receive: Receive) -> None:
        self._deadline = deadline
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(max(self._deadline.remaining_s(), 0))
        await self._timeout.__aenter__()
        self._watch = asyncio.create_task(self._wait_for_disconnect())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._watch.cancel()
        try:
            await self._timeout.__aexit__(kind, error, at)
        except TimeoutError:
            if self._gone:
                raise ClientGone("The client closed the connection.") from None
            raise DeadlineExceeded("The request's deadline passed.") from None

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if not self._timeout.expired():
            self._timeout.reschedule(0)
