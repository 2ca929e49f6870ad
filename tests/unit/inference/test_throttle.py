from __future__ import annotations

import random

from inference.retry_budget import AFTER_TIMEOUT, RETRY, RetryBudget
from inference.throttle import HEALED_AFTER, LEAST_ACCEPTS, WINDOW_S, Throttle
from support.clock import Clock


class Upstream:
    """What asks through a throttle, at a steady rate."""

    def __init__(self, ratio: float = 2.0) -> None:
        self.clock = Clock()
        chance = random.Random(7)  # noqa: S311  # a test's, no secret
        self.throttle = Throttle(ratio, clock=self.clock, random=chance.random)

    def asked(self, seconds: float, *, is_good: bool, rate: float = 20) -> float:
        """The share of the requests that were sent."""
        count = int(seconds * rate)
        sent = 0
        for _ in range(count):
            self.clock.advance(1 / rate)
            if self.throttle.admits():
                sent += 1
                if is_good:
                    self.throttle.accepted()
                else:
                    self.throttle.refused()
        return sent / count


def test_a_healthy_target_is_never_throttled_nor_is_one_that_refuses_a_third() -> None:
    upstream = Upstream()
    assert upstream.asked(60, is_good=True) == 1
    for _ in range(20):
        assert upstream.asked(1, is_good=False, rate=10) == 1
        upstream.asked(2, is_good=True, rate=10)


def test_the_first_failures_of_a_new_process_are_no_storm() -> None:
    upstream = Upstream()
    assert upstream.asked((2 * LEAST_ACCEPTS) / 20, is_good=False) == 1


def test_of_a_target_that_refuses_everything_little_more_than_a_probe_a_second_is_sent() -> None:
    upstream = Upstream()
    upstream.asked(WINDOW_S, is_good=False)
    before = upstream.throttle.refusals
    sent = upstream.asked(30, is_good=False)
    assert 1 / 20 <= sent < 1.6 / 20
    assert upstream.throttle.refusals - before == round(600 * (1 - sent))


def test_a_healed_target_gets_everything_within_seconds_however_long_it_was_away() -> None:
    upstream = Upstream()
    upstream.asked(10, is_good=True)
    upstream.asked(60, is_good=False)
    assert upstream.asked(1, is_good=False) < 0.5
    upstream.asked(HEALED_AFTER + 1, is_good=True)
    assert upstream.throttle.chance == 0
    assert upstream.asked(10, is_good=True) == 1


def test_a_very_large_ratio_never_throttles() -> None:
    upstream = Upstream(ratio=1_000_000)
    upstream.asked(1, is_good=True)
    assert upstream.asked(100, is_good=False) == 1


def test_calls_that_are_still_under_way_say_nothing_against_their_target() -> None:
    upstream = Upstream()
    assert all(upstream.throttle.admits() for _ in range(1_000))
    assert upstream.throttle.chance == 0


def test_a_budget_lets_ten_retries_through_at_total_failure_and_a_tenth_in_steady_state() -> None:
    budget = RetryBudget(100)
    assert [budget.draw("status_503") for _ in range(11)] == [RETRY] * 10 + [None]
    assert budget.exhausted == 1
    granted = 0
    for _ in range(1000):
        budget.earn()
        granted += budget.draw("status_503") is not None
    assert granted == 100


def test_a_timeout_is_dearer_and_a_retry_that_worked_costs_nothing() -> None:
    budget = RetryBudget(100)
    assert [budget.draw("timeout") for _ in range(6)] == [AFTER_TIMEOUT] * 5 + [None]
    budget.earn(AFTER_TIMEOUT)
    assert budget.draw("timeout") == AFTER_TIMEOUT
    budget.earn(10_000)
    assert [budget.draw("connect") for _ in range(11)][-1] is None
