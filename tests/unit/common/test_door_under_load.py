"""The door in front of a process of one core, in simulated time: exact on any machine."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest

from common.overload.shedder import Shedder
from support.clock import Clock

STAGES, STAGE_S, ELSEWHERE_S = 5, 0.0004, 0.002
"""Of an answer: pieces of work, the CPU time of each, and what it waits for others in between."""
REFUSAL_S = 0.00005
CAPACITY = 1 / (STAGES * STAGE_S)
BACK_AFTER_S = 0.1
"""A caller in a closed loop who was refused."""


@dataclass
class Loop:
    """Turn by turn: each runs what had become due before it began, newcomers through the door."""

    seconds: float = 12.0
    warm_up_s: float = 2.0
    clock: Clock = field(default_factory=lambda: Clock(0.0))
    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    callers: int = 0

    def __post_init__(self) -> None:
        self._shedder = Shedder(clock=self.clock, cpu_clock=self.clock)
        self._due: list[tuple[float, int, float, int]] = []
        self._number = 0

    def _add(self, due: float, arrived: float, stage: int) -> None:
        self._number += 1
        heapq.heappush(self._due, (due, self._number, arrived, stage))

    def offered(self, rate: float) -> Loop:
        """So many requests a second, whatever becomes of them (a Poisson process)."""
        chance, at = random.Random(1), 0.0  # noqa: S311  # no secret
        while (at := at + chance.expovariate(rate)) < self.seconds:
            self._add(at, at, 0)
        return self._run()

    def called_by(self, callers: int) -> Loop:
        """So many callers, each of whom asks again once answered."""
        self.callers = callers
        for number in range(callers):
            self._add(number / 1000, number / 1000, 0)
        return self._run()

    def _run(self) -> Loop:
        while self._due and self.clock.now < self.seconds:
            self.clock.now = max(self.clock.now, self._due[0][0])
            began = self.clock.now
            turn = []
            while self._due and self._due[0][0] <= began:
                turn.append(heapq.heappop(self._due))
            has_newcomers = False
            for _, _, arrived, stage in turn:
                if stage == 0:
                    has_newcomers = self._shedder.begin_turn() or has_newcomers
                self._step(arrived, stage)
            if has_newcomers:
                self._shedder.end_turn()
        return self

    def _step(self, arrived: float, stage: int) -> None:
        if stage == 0 and self._shedder.reason_to_refuse(body_bytes=0, is_batch=False) is not None:
            self.clock.advance(REFUSAL_S)
            self._end(arrived, self.refused_s, BACK_AFTER_S)
            return
        self.clock.advance(STAGE_S)
        if stage + 1 < STAGES:
            self._add(self.clock.now + ELSEWHERE_S, arrived, stage + 1)
        else:
            self._end(arrived, self.accepted_s, 0.0005)

    def _end(self, arrived: float, times_s: list[float], pause_s: float) -> None:
        if arrived >= self.warm_up_s:
            times_s.append(self.clock.now - arrived)
        if self.callers:
            self._add(self.clock.now + pause_s, self.clock.now + pause_s, 0)

    @property
    def goodput(self) -> float:
        return len(self.accepted_s) / (self.seconds - self.warm_up_s)


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


@pytest.fixture(scope="module")
def calm() -> Loop:
    return Loop().offered(CAPACITY / 2)


@pytest.mark.parametrize("multiple", [1.2, 2, 5])
def test_in_an_overload_who_is_let_in_is_soon_answered_and_who_is_not_is_soon_told(calm: Loop, multiple: float) -> None:
    loop = Loop(seconds=14, warm_up_s=6).offered(CAPACITY * multiple)
    assert 0 < p99(loop.refused_s) <= 0.01
    assert p99(loop.accepted_s) <= 3 * p99(calm.accepted_s)


@pytest.mark.parametrize("multiple", [2, 5, 10])
def test_all_that_refusals_leave_of_the_processor_is_answers(multiple: float) -> None:
    loop = Loop(seconds=16, warm_up_s=8).offered(CAPACITY * multiple)
    left = 1 - (multiple - 1) * REFUSAL_S / (STAGES * STAGE_S)
    assert loop.goodput >= 0.97 * left * CAPACITY


@pytest.mark.parametrize("callers", [16, 64, 200])
def test_callers_who_wait_for_their_answers_are_no_overload(callers: int) -> None:
    loop = Loop(seconds=8).called_by(callers)
    assert (len(loop.refused_s), loop.goodput > 0.9 * CAPACITY) == (0, True)


def test_a_load_below_the_capacity_is_not_refused(calm: Loop) -> None:
    assert calm.refused_s == Loop().offered(CAPACITY * 0.9).refused_s == []
