"""How many calls of one model may be under way at once: more while they go well, less when they are turned away.

AIMD, as TCP does it: one step up after as many clean answers as the limit, a tenth down on an answer that says "too
much"; calls that began before a step down do not cause another. Not by duration, which only follows the tokens. When
inference itself was overloaded, the step is taken from what was really under way (RFC 5681, flight size), because the
limit may be far above it.
Source: Chiu and Jain, "Analysis of the Increase and Decrease Algorithms" (1989).
"""

from __future__ import annotations

from typing import Literal

FLOOR = 4
DECREASE = 0.9


Verdict = Literal["clean", "too_much", "overloaded", "unknown"]
"""What an answer says of the load: too much for the model (429, 503, silence) or for inference itself, or nothing."""


class AdaptiveLimit:
    __slots__ = ("_ceiling", "_clean", "_epoch", "_limit", "in_use", "waiting")

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(ceiling)
        self._epoch = 0
        self._clean = 0
        self.in_use = 0
        self.waiting = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def has_room(self) -> bool:
        return self.in_use < self.limit

    @property
    def may_wait(self) -> bool:
        """A queue longer than half of what runs only turns into timeouts."""
        return self.waiting < max(self.limit // 2, 1)

    def enter(self) -> int:
        """Returns what `leave` wants back."""
        self.in_use += 1
        return self._epoch

    def leave(self, epoch: int, verdict: Verdict) -> None:
        if verdict in ("too_much", "overloaded") and epoch == self._epoch:
            under_way = self._limit if verdict == "too_much" else min(self._limit, self.in_use)
            self._limit = max(under_way * DECREASE, min(FLOOR, self._ceiling))
            self._epoch += 1
            self._clean = 0
        self.in_use -= 1
        if verdict == "clean":
            self._clean += 1
            if self._clean >= self.limit:
                self._clean = 0
                self._limit = min(self._limit + 1, self._ceiling)
