"""How many retries a target's failures may cause: 10 % of its traffic in steady state, ten at total failure.

Source: https://sre.google/sre-book/handling-overload/ (retry budgets); gRFC A6 (retry throttling).
"""

from __future__ import annotations

RETRY = 10
AFTER_TIMEOUT = 20
"""The call may still be running there: to repeat it is dearer."""
SUCCESS = 1


class RetryBudget:
    """A bucket of `capacity`, full at first. A retry draws on that of the target whose failure it repairs."""

    def __init__(self, capacity: float) -> None:
        self.exhausted = 0
        """Retries that were not made for want of budget."""
        self._capacity = capacity
        self._left = capacity

    def draw(self, reason: str) -> float | None:
        """The cost of one retry, taken; None when there is too little left."""
        cost = AFTER_TIMEOUT if reason == "timeout" else RETRY
        if cost > self._left:
            self.exhausted += 1
            return None
        self._left -= cost
        return cost

    def earn(self, amount: float = SUCCESS) -> None:
        """A clean success, or the refund of a retry that worked."""
        self._left = min(self._left + amount, self._capacity)
