"""A canary: which tenants meet it, and when it has proved worse than the stable targets.

The share is a hash of model, target and tenant: sticky without state, the same on every replica, and a larger share
keeps the tenants of the smaller one. Each process judges what it sees. A rolled back canary stays so until its model's
entry in the catalogue changes.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from typing import TYPE_CHECKING

from opentelemetry import trace

from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.catalogue import CanarySpec

logger = logging.getLogger(__name__)
_MOST_SAMPLES = 1_000
_JUDGED_EVERY_S = 1.0
LEAST_ERRORS = 3
"""One failure among twenty calls is above most bounds, and says nothing."""
_BUCKETS = 10_000


class Canary:
    def __init__(self, model: str, spec: CanarySpec, *, clock: Callable[[], float]) -> None:
        self.rolled_back: str | None = None
        """Why: `errors`, `ttft` or `ejected`; None: on trial."""
        self.rollbacks = 0
        self._model = model
        self._spec = spec
        self._clock = clock
        self._canary = _Record(spec.window_s)
        self._stable = _Record(spec.window_s)
        self._latency_judged = -math.inf

    @property
    def percent(self) -> float:
        return 0.0 if self.rolled_back else self._spec.percent

    def serves(self, tenant: str) -> bool:
        """Whether this tenant's requests go to the canary."""
        named = f"{self._model} {self._spec.target} {tenant}".encode()
        bucket = int.from_bytes(hashlib.blake2b(named, digest_size=8).digest()) % _BUCKETS
        return bucket < self.percent * _BUCKETS / 100

    def note(self, target: str, *, is_error: bool, ttft_s: float | None = None) -> None:
        """Take one outcome of one of the model's targets; `ttft_s` of streams only."""
        now = self._clock()
        is_canary = target == self._spec.target
        (self._canary if is_canary else self._stable).add(now, is_error=is_error, ttft_s=ttft_s)
        if is_canary and self.rolled_back is None:
            self._judge(now)

    def ejected(self) -> None:
        """Its breaker opened while the stable targets' are closed: too few calls would reach it to be judged."""
        if self.rolled_back is None:
            self._roll_back("ejected")

    def _judge(self, now: float) -> None:
        self._canary.forget(now)
        self._stable.forget(now)
        if len(self._canary.outcomes) < self._spec.min_requests:
            return
        is_failing = self._canary.errors >= LEAST_ERRORS
        if is_failing and self._canary.error_rate > self._stable.error_rate + self._spec.max_error_rate_increase:
            self._roll_back("errors")
        elif now - self._latency_judged >= _JUDGED_EVERY_S:  # sorting is for once a second
            self._latency_judged = now
            if self._is_slower():
                self._roll_back("ttft")

    def _is_slower(self) -> bool:
        mine, theirs = self._canary.ttfts(), self._stable.ttfts()
        if min(len(mine), len(theirs)) < self._spec.min_requests:
            return False
        return percentile(mine, 0.95) > percentile(theirs, 0.95) * self._spec.max_ttft_ratio

    def _roll_back(self, reason: str) -> None:
        self.rolled_back = reason
        self.rollbacks += 1
        told: dict[str, str | int | float] = {
            "model": self._model,
            "target": self._spec.target,
            "reason": reason,
            "requests": len(self._canary.outcomes),
            "error_rate": round(self._canary.error_rate, 4),
            "stable_error_rate": round(self._stable.error_rate, 4),
        }
        logger.error("canary_rolled_back", extra=told)
        attributes = {conventions.CANARY + key: value for key, value in told.items()}
        trace.get_current_span().add_event(conventions.CANARY_ROLLED_BACK, attributes)


class _Record:
    """Outcomes of the last `window_s` seconds, at most a thousand."""

    def __init__(self, window_s: float) -> None:
        self.outcomes: deque[tuple[float, bool, float | None]] = deque()
        self._window_s = window_s
        self.errors = 0

    def add(self, now: float, *, is_error: bool, ttft_s: float | None) -> None:
        if len(self.outcomes) >= _MOST_SAMPLES:
            self._drop()
        self.outcomes.append((now, is_error, ttft_s))
        self.errors += is_error

    def forget(self, now: float) -> None:
        while self.outcomes and self.outcomes[0][0] < now - self._window_s:
            self._drop()

    @property
    def error_rate(self) -> float:
        return self.errors / len(self.outcomes) if self.outcomes else 0.0

    def ttfts(self) -> list[float]:
        return sorted(ttft_s for _, _, ttft_s in self.outcomes if ttft_s is not None)

    def _drop(self) -> None:
        self.errors -= self.outcomes.popleft()[1]


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
