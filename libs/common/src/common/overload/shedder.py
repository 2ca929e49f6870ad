"""Whether new work is let in at all, judged before any of it is read: by the event loop's turns and its lag, by memory,
and by the bytes and the number of requests that are here already.

A *turn* is one round of the event loop: it takes what has arrived and runs each request up to its first wait. When more
arrives than can be done, turns get long. So once turns have been long for a while, each turn takes in a bounded amount
of new work and refuses the rest of what arrived in it: what is taken in fills the process, and a refusal waits one turn
at most. From the first refusal until none was needed for a while that amount is small: turns are short then, refusals
early, and what was taken in is soon answered. A burst into an idle process is no overload and passes, and neither is a
hundred callers who wait for their answers. Mostly CPU time counts, because a neighbour that takes the processor away
makes turns long as well, and refusing more would then only leave it idle.
Source: the idea of a queue's standing delay, RFC 8289 (CoDel).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REQUESTS = 4096
MAX_BODY_BYTES = 256 * 2**20
MAX_LAG_S = 0.25
LONG_TURN_CPU = 0.5
"""Of the greatest lag: a turn is long that takes so much CPU time, 125 ms. Shorter ones are a busy process and no
overload: a hundred callers that each wait for their answer before they ask again make turns of 100 ms (measured)."""
SHORT_TURN_CPU = 0.004
"""Likewise, 1 ms: what a turn takes in once one was refused because turns were long by CPU time. In simulated time, at
five times the capacity, 125 ms instead make accepted answers 50 times as late and leave a tenth less of them."""
LONG_TURN = 1.0
"""Likewise, of the clock: 250 ms."""
BATCH_LAG = 0.4
BATCH_LAG_FOR_S = 1.0
BATCH_MEMORY = 0.85
ALL_MEMORY = 0.92

Reason = Literal["turn", "lag", "memory", "bodies", "requests"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Shedder:
    def __init__(
        self,
        *,
        max_requests: int = MAX_REQUESTS,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_lag_s: float = MAX_LAG_S,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`max_requests` are open at once, streams included; `max_body_bytes` is of all their bodies together.

        `max_lag_s`: a loop that is so late takes in nothing new; turns that were long for so long are bounded.
        """
        self._max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self._max_lag_s = max_lag_s
        self._clock = clock
        self._cpu_clock = cpu_clock
        self.requests = 0
        self.body_bytes = 0
        self.refused_for: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))
        """Since the process began."""
        self._turn_began: float | None = None
        self._cpu_began: float | None = None
        """Only asked for while turns are not short: the clock of CPU time is a system call, twice in every turn."""
        self._turn_s = 0.0
        """Of the last turn."""
        self._refused_in_turn = False
        self._long_since: float | None = None
        self._short_until = 0.0
        """Turns take in little until then."""
        self._lag_s = 0.0
        self._lagging_since: float | None = None
        self._memory = 0.0

    @property
    def refused(self) -> int:
        return self.refused_for.total()

    def begin_turn(self) -> bool:
        """Note that a request has come; whether it is the first of this turn, so that `end_turn` is to be called."""
        if self._turn_began is not None:
            return False
        self._turn_began = self._clock()
        is_watched = self._turn_s >= self._max_lag_s * LONG_TURN_CPU / 4 or self._turn_began < self._short_until
        self._cpu_began = self._cpu_clock() if is_watched else None
        return True

    def end_turn(self) -> None:
        is_long = self._refused_in_turn or self._is_turn_long()
        self._turn_s = 0.0 if self._turn_began is None else self._clock() - self._turn_began
        self._turn_began = None
        self._refused_in_turn = False
        if not is_long:
            self._long_since = None
        elif self._long_since is None:
            self._long_since = self._clock()

    def _is_turn_long(self) -> bool:
        if self._turn_began is None:
            return False
        turn_s = self._clock() - self._turn_began
        if turn_s < self._max_lag_s * LONG_TURN_CPU:  # CPU time is never more
            return False
        if turn_s >= self._max_lag_s * LONG_TURN:
            return True
        return self._cpu_began is None or self._has_used(LONG_TURN_CPU)

    def _has_used(self, share: float) -> bool:
        """CPU time in this turn, of the greatest lag."""
        return self._cpu_began is not None and self._cpu_clock() - self._cpu_began >= self._max_lag_s * share

    def _is_turn_full(self) -> bool:
        now = self._clock()
        if is_short := now < self._short_until:
            is_full = self._has_used(SHORT_TURN_CPU)
        else:
            has_lasted = self._long_since is not None and now - self._long_since >= self._max_lag_s
            is_full = has_lasted and self._is_turn_long()
        if is_full and (is_short or self._has_used(LONG_TURN_CPU)):  # not for a processor that was taken away
            self._short_until = now + self._max_lag_s
        return is_full

    def observe_lag(self, lag_s: float) -> None:
        """How late the loop ran what was due."""
        self._lag_s = lag_s
        if lag_s < self._max_lag_s * BATCH_LAG:
            self._lagging_since = None
        elif self._lagging_since is None:
            self._lagging_since = self._clock()

    def _has_lagged_for(self, seconds: float) -> bool:
        return self._lagging_since is not None and self._clock() - self._lagging_since >= seconds

    def observe_memory(self, share: float) -> None:
        """Of what this process may use: 1 is all."""
        self._memory = share

    @property
    def is_batch_shed(self) -> bool:
        now = self._clock()
        return (
            self._memory >= BATCH_MEMORY
            or self._has_lagged_for(BATCH_LAG_FOR_S)
            or (self._long_since is not None and now - self._long_since >= BATCH_LAG_FOR_S)
        )

    def reason_to_refuse(self, *, body_bytes: int, is_batch: bool) -> Reason | None:
        """Why a request with so large a body is not let in; None: it is."""
        reason = self._reason(body_bytes, is_batch=is_batch)
        if reason is not None:
            self.refused_for[reason] += 1
            self._refused_in_turn = True
        return reason

    def _reason(self, body_bytes: int, *, is_batch: bool) -> Reason | None:  # noqa: PLR0911  # one line for each reason
        if self.requests >= self._max_requests:
            return "requests"
        if self.body_bytes + body_bytes > self.max_body_bytes:
            return "bodies"
        if self._memory >= ALL_MEMORY:
            return "memory"
        if self._lag_s >= self._max_lag_s and self._has_lagged_for(self._max_lag_s):  # one pause is none
            return "lag"
        if self._is_turn_full():
            return "turn"
        if is_batch and self.is_batch_shed:
            return "memory" if self._memory >= BATCH_MEMORY else "lag"
        return None
