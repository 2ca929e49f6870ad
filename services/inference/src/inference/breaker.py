"""Ejects a target that fails, and lets one call at a time try whether it is back.

Open at 50 % of at least 10 samples in 10 s, or at 5 failures to connect running; for 2 s, doubling to 30 s, jittered.
Whoever chooses targets never leaves a model without any: then the ejected ones are asked all the same.
Source: https://martinfowler.com/bliki/CircuitBreaker.html; Envoy's outlier detection.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)
WINDOW_S = 10.0
LEAST_SAMPLES = 10
FAILED_SHARE = 0.5
CONNECT_FAILURES = 5
FIRST_REST_S = 2.0
LONGEST_REST_S = 30.0
_MOST_SAMPLES = 1_000
_JITTER = (0.8, 1.2)

State = Literal["closed", "half_open", "open"]


class Breaker:
    """Of one target. `begin` goes before each call and says whether the call is the probe; one of the others after."""

    def __init__(self, name: str, *, clock: Callable[[], float], uniform: Callable[[float, float], float]) -> None:
        self.opened = 0
        """How often it opened."""
        self._name = name
        self._clock = clock
        self._uniform = uniform
        self._samples: deque[tuple[float, bool]] = deque(maxlen=_MOST_SAMPLES)
        self._connect_failures = 0
        self._open_until: float | None = None
        self._rest_s = FIRST_REST_S
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @property
    def state(self) -> State:
        """Half open: due for its probe, or being probed."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._is_probing or self._clock() >= self._open_until else "open"

    @property
    def admits(self) -> bool:
        """Closed, or due for a probe that nobody makes yet."""
        return self._open_until is None or (self._clock() >= self._open_until and not self._is_probing)

    def begin(self) -> bool:
        if self._open_until is None or not self.admits:
            return False
        self._is_probing = True
        return True

    def succeeded(self, *, is_probe: bool) -> None:
        if self.is_open:
            if is_probe:
                self._close()
            return
        self._connect_failures = 0
        self._samples.append((self._clock(), True))

    def failed(self, reason: str, *, is_probe: bool) -> None:
        if self.is_open:
            if is_probe:
                self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
                self._open(reason)
            return  # else a call from before: it says nothing new
        self._connect_failures = self._connect_failures + 1 if reason == "connect" else 0
        self._samples.append((self._clock(), False))
        if self._connect_failures >= CONNECT_FAILURES or self._is_failing():
            self._open(reason)

    def abandoned(self, *, is_probe: bool) -> None:
        """The call ended without saying anything about the target: the next one is the probe."""
        if is_probe:
            self._is_probing = False

    def _is_failing(self) -> bool:
        since = self._clock() - WINDOW_S
        while self._samples and self._samples[0][0] < since:
            self._samples.popleft()
        failures = sum(not is_good for _, is_good in self._samples)
        return len(self._samples) >= LEAST_SAMPLES and failures >= FAILED_SHARE * len(self._samples)

    def _open(self, reason: str) -> None:
        self.opened += 1
        self._is_probing = False
        self._open_until = self._clock() + self._rest_s * self._uniform(*_JITTER)
        logger.warning("target_ejected", extra={"target": self._name, "reason": reason, "rest_s": self._rest_s})

    def _close(self) -> None:
        self._open_until = None
        self._is_probing = False
        self._rest_s = FIRST_REST_S
        self._connect_failures = 0
        self._samples.clear()
        logger.info("target_restored", extra={"target": self._name})
