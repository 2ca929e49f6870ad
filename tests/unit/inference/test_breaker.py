from __future__ import annotations

import logging

import pytest

from inference.breaker import CONNECT_FAILURES, FIRST_REST_S, LEAST_SAMPLES, LONGEST_REST_S, WINDOW_S, Breaker
from support.clock import Clock


class Call:
    """A breaker, and calls that end as told; rests are not jittered."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker("a", clock=self.clock, uniform=lambda _, __: 1.0)

    def good(self) -> None:
        self.breaker.succeeded(is_probe=self.breaker.begin())

    def bad(self, reason: str = "status_503") -> None:
        self.breaker.failed(reason, is_probe=self.breaker.begin())

    def opened(self) -> Call:
        for _ in range(LEAST_SAMPLES):
            self.bad()
        assert self.breaker.is_open
        return self


def test_half_of_ten_calls_failing_ejects_and_fewer_do_not() -> None:
    call = Call()
    for _ in range(LEAST_SAMPLES // 2):
        call.good()
    for _ in range(LEAST_SAMPLES // 2 - 1):
        call.bad()
    assert call.breaker.admits
    call.bad()
    assert call.breaker.is_open
    assert not call.breaker.admits


@pytest.mark.parametrize("reason", ["timeout", "pool_wait", "broken", "status_500", "stream_interrupted"])
def test_every_kind_of_failure_counts(reason: str) -> None:
    call = Call()
    for _ in range(LEAST_SAMPLES):
        call.bad(reason)
    assert call.breaker.is_open


def test_it_is_half_open_from_when_its_probe_is_due_until_that_has_ended() -> None:
    call = Call()
    states = [call.breaker.state, call.opened().breaker.state]
    call.clock.advance(FIRST_REST_S)
    states.append(call.breaker.state)
    is_probe = call.breaker.begin()
    states.append(call.breaker.state)
    call.breaker.failed("status_503", is_probe=is_probe)
    states.append(call.breaker.state)
    call.clock.advance(2 * FIRST_REST_S)
    call.good()
    states.append(call.breaker.state)
    assert states == ["closed", "open", "half_open", "half_open", "open", "closed"]


def test_failures_longer_ago_than_the_window_do_not_count() -> None:
    call = Call()
    for _ in range(LEAST_SAMPLES - 1):
        call.bad()
    call.clock.advance(WINDOW_S + 0.1)
    call.bad()
    assert not call.breaker.is_open


def test_five_failures_to_connect_running_eject_at_once() -> None:
    call = Call()
    for _ in range(CONNECT_FAILURES - 1):
        call.bad("connect")
    call.good()
    for _ in range(CONNECT_FAILURES):
        assert not call.breaker.is_open
        call.bad("connect")
    assert call.breaker.is_open


def test_after_its_rest_one_call_at_a_time_is_the_probe() -> None:
    call = Call().opened()
    call.clock.advance(FIRST_REST_S - 0.1)
    assert not call.breaker.admits
    call.clock.advance(0.1)
    assert (call.breaker.begin(), call.breaker.begin()) == (True, False)
    call.breaker.succeeded(is_probe=True)
    call.bad()  # what was before is forgotten
    assert call.breaker.admits


def test_a_failed_probe_doubles_the_rest_up_to_a_bound() -> None:
    call = Call().opened()
    rests = []
    for _ in range(6):
        rest_s = 0.0
        while not call.breaker.admits:
            call.clock.advance(1)
            rest_s += 1
        rests.append(rest_s)
        call.bad()
    assert rests == [2, 4, 8, 16, 30, 30]
    assert max(rests) == LONGEST_REST_S


def test_a_probe_that_was_called_off_leaves_its_place_to_the_next() -> None:
    call = Call().opened()
    call.clock.advance(FIRST_REST_S)
    assert call.breaker.begin()
    call.breaker.abandoned(is_probe=True)
    assert call.breaker.begin()


def test_late_news_of_calls_from_before_changes_nothing() -> None:
    call = Call().opened()
    call.breaker.succeeded(is_probe=False)
    assert call.breaker.is_open
    call.breaker.failed("timeout", is_probe=False)
    call.clock.advance(FIRST_REST_S)
    assert call.breaker.admits


def test_each_change_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        call = Call().opened()
        call.bad()
        call.clock.advance(FIRST_REST_S)
        call.good()
        call.good()
    assert [record.message for record in caplog.records] == ["target_ejected", "target_restored"]
    assert call.breaker.opened == 1
