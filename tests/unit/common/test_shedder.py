from __future__ import annotations

import pytest

from common.overload.shedder import Shedder
from support.clock import Clock


class Process:
    """A shedder with clocks of our own; work takes CPU time, a neighbour only time."""

    def __init__(self, *, max_requests: int = 100, max_body_bytes: int = 1_000) -> None:
        self.clock = Clock()
        self.cpu = Clock()
        self.shedder = Shedder(
            max_requests=max_requests, max_body_bytes=max_body_bytes, clock=self.clock, cpu_clock=self.cpu
        )

    def turn(self, requests: int, *, each_s: float = 0.001, stolen_s: float = 0.0) -> int:
        """How many of `requests` that arrive in one turn are let in."""
        admitted = 0
        for _ in range(requests):
            self.shedder.begin_turn()
            if self.asks() is None:
                admitted += 1
                self.clock.advance(each_s)
                self.cpu.advance(each_s)
        self.clock.advance(stolen_s)
        self.shedder.end_turn()
        return admitted

    def asks(self, body_bytes: int = 0, *, is_batch: bool = False) -> str | None:
        return self.shedder.reason_to_refuse(body_bytes=body_bytes, is_batch=is_batch)


def test_a_burst_into_an_idle_process_is_let_in() -> None:
    assert Process().turn(200) == 200


def test_turns_that_stay_long_are_given_125_ms_of_new_work_and_then_one_each() -> None:
    process = Process()
    assert [process.turn(150), process.turn(150)] == [150, 150]  # not yet for 250 ms
    process.clock.advance(0.25)
    assert [process.turn(200) for _ in range(3)] == [125, 1, 1]


def test_it_ends_once_nobody_was_refused_for_250_ms() -> None:
    process = Process()
    process.turn(150)
    process.clock.advance(0.25)
    assert process.turn(200) == 125
    assert process.turn(1) == 1
    assert process.turn(200) == 1
    process.clock.advance(0.25)
    assert process.turn(5) == 5
    assert process.turn(200) == 200


def test_turns_that_a_neighbour_made_long_do_not_make_them_short() -> None:
    process = Process()
    process.turn(10, stolen_s=0.3)
    process.clock.advance(0.25)
    process.shedder.begin_turn()
    process.clock.advance(0.3)
    assert process.asks() == "turn"
    process.shedder.end_turn()
    assert process.turn(60) == 60


def test_a_processor_taken_away_by_a_neighbour_counts_less_than_work_of_our_own() -> None:
    process = Process()
    for _ in range(10):
        process.turn(8, stolen_s=0.2)
    assert process.turn(130) == 130


@pytest.mark.parametrize(
    ("lag_s", "batch", "interactive"), [(0.09, None, None), (0.11, "lag", None), (0.26, "lag", "lag")]
)
def test_a_lag_sheds_batch_first_and_then_all(lag_s: float, batch: str | None, interactive: str | None) -> None:
    process = Process()
    process.shedder.observe_lag(lag_s)
    process.clock.advance(1)
    process.shedder.observe_lag(lag_s)
    assert (process.asks(is_batch=True), process.asks()) == (batch, interactive)


def test_a_short_lag_does_not_shed_batch() -> None:
    process = Process()
    process.shedder.observe_lag(0.2)
    process.clock.advance(0.9)
    process.shedder.observe_lag(0.01)
    process.clock.advance(0.2)
    assert process.asks(is_batch=True) is None


@pytest.mark.parametrize(
    ("share", "batch", "interactive"), [(0.84, None, None), (0.86, "memory", None), (0.93, "memory", "memory")]
)
def test_memory_sheds_batch_first_and_then_all(share: float, batch: str | None, interactive: str | None) -> None:
    process = Process()
    process.shedder.observe_memory(share)
    assert (process.asks(is_batch=True), process.asks()) == (batch, interactive)


def test_bodies_and_requests_are_bounded_together() -> None:
    process = Process(max_requests=2, max_body_bytes=100)
    process.shedder.body_bytes = 60
    assert process.asks(41) == "bodies"
    assert process.asks(40) is None
    process.shedder.requests = 2
    assert process.asks() == "requests"
    assert process.shedder.refused == 2


def test_one_pause_however_long_refuses_nothing() -> None:
    process = Process()
    process.shedder.observe_lag(3)
    assert process.asks() is None
