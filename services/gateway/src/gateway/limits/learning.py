"""What the calls of a key to a model turned out to be: how much they were answered, and how long they took."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_OUTPUT_TOKENS = 512
"""Of a choice, as long as nothing is known of its kind."""
TRUSTED_AFTER = 5
"""Answers, before what they were is believed."""
_MEMORY = 0.05
"""Weight of the newest answer: the one of twenty answers ago still has a third of it."""
_P95 = 1.645
"""Standard deviations above the mean, of a normal distribution (of logarithms: sizes of answers have long tails)."""
_LONGEST_GUESS = 1_000_000


@dataclass(slots=True)
class _Learned:
    seen: int = 0
    mean_log: float = 0.0
    variance_log: float = 0.0
    mean_s: float = 0.0


class Experience:
    """Remembers the `capacity` kinds of calls (key and model) that were used last, 4 numbers each."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._kinds: dict[tuple[str, str], _Learned] = {}

    def learn(self, key_id: str, model: str, output_tokens: int, seconds: float) -> None:
        """One choice of an answer, and the time of its call."""
        kind = (key_id, model)
        known = self._kinds.pop(kind, None) or _Learned()
        if len(self._kinds) >= self._capacity:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = known
        known.seen += 1
        weight = max(1 / known.seen, _MEMORY)
        off = math.log1p(max(output_tokens, 0)) - known.mean_log
        known.mean_log += weight * off
        known.variance_log = (1 - weight) * (known.variance_log + weight * off * off)
        known.mean_s += weight * (seconds - known.mean_s)

    def output_tokens(self, key_id: str, model: str) -> int:
        """What 19 of 20 answers stay below, about."""
        known = self._kinds.get((key_id, model))
        if known is None or known.seen < TRUSTED_AFTER:
            return DEFAULT_OUTPUT_TOKENS
        guess = math.expm1(min(known.mean_log + _P95 * math.sqrt(known.variance_log), 20.0))
        return max(1, min(math.ceil(guess), _LONGEST_GUESS))

    def seconds(self, key_id: str, model: str) -> float:
        """How long a call takes on average; 1 before anything is known."""
        known = self._kinds.get((key_id, model))
        return known.mean_s if known is not None else 1.0
