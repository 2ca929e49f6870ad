"""Refuses here what a target would refuse there: its refusals cost it time too, and retries must not storm.

p = (requests - ratio x accepts) / (requests + 1) over 120 s, and one probe a second goes through whatever p is. A call
counts once its outcome is known: a burst of first calls, all still under way, says nothing against their target.
Source: https://sre.google/sre-book/handling-overload/ (client-side throttling).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_S = 120.0
BUCKET_S = 5.0
PROBE_EVERY_S = 1.0
LEAST_ACCEPTS = 10
"""As many count as accepted at least: the first failures of a new process are no storm."""
HEALED_AFTER = 5
"""So many accepted calls running, and the refusals before them are forgotten. Without this an outage of 60 s that
follows 10 s of traffic would be paid for with minutes of refusals after its end: accepts grow with the square of
the time only (ADR 0011)."""


class Throttle:
    """Of one target. What `admits` lets through is told `accepted` or `refused`, or nothing when nobody knows."""

    def __init__(self, ratio: float, *, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self.refusals = 0
        """Requests that were not sent."""
        self._ratio = ratio
        self._clock = clock
        self._random = random
        self._buckets: deque[list[float]] = deque()  # start, requests, accepts
        self._last_sent = -PROBE_EVERY_S
        self._accepted_running = 0

    @property
    def chance(self) -> float:
        """Of a refusal, now: 0 to 1."""
        self._forget()
        requests = sum(bucket[1] for bucket in self._buckets)
        accepts = sum(bucket[2] for bucket in self._buckets)
        return max(0.0, (requests - self._ratio * max(accepts, LEAST_ACCEPTS)) / (requests + 1))

    def admits(self) -> bool:
        now = self._clock()
        is_sent = self._random() >= self.chance or now - self._last_sent >= PROBE_EVERY_S
        if is_sent:
            self._last_sent = now
        else:
            self._bucket()[1] += 1
            self.refusals += 1
        return is_sent

    def accepted(self) -> None:
        bucket = self._bucket()
        bucket[1] += 1
        bucket[2] += 1
        self._accepted_running += 1
        if self._accepted_running >= HEALED_AFTER and self.chance > 0:
            self._buckets.clear()

    def refused(self) -> None:
        self._bucket()[1] += 1
        self._accepted_running = 0

    def _bucket(self) -> list[float]:
        now = self._clock()
        if not self._buckets or now - self._buckets[-1][0] >= BUCKET_S:
            self._buckets.append([now, 0, 0])
        return self._buckets[-1]

    def _forget(self) -> None:
        since = self._clock() - WINDOW_S
        while self._buckets and self._buckets[0][0] < since:
            self._buckets.popleft()
