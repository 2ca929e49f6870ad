"""An upstream that is away for a minute, in a minute of a clock that a test moves: retries must not storm."""

from __future__ import annotations

import random

import pytest

from common.errors import ServiceError, Unavailable
from inference.errors import AttemptFailedError
from inference.router import Router
from inference.targets import Policy, Target
from support.catalogue import model, models_yaml, question, served, target
from support.clock import Clock

RATE = 50
WARM_UP_S, OUTAGE_S, HEALED_S = 30, 60, 20
ONE = models_yaml(model(target("a")))
THREE = models_yaml(model(target("a"), target("b"), target("c")))


class Minute:
    """Arrivals at a steady rate, one after the other, and what became of them second by second."""

    def __init__(self, text: str, seed: int) -> None:
        self.clock = Clock()
        chance = random.Random(seed)  # noqa: S311  # a test's, no secret
        self.policy = Policy(clock=self.clock, random=chance.random, uniform=lambda _, __: 0.0)
        self.router = Router(served(text, self.policy), self.policy, max_attempts=3)
        self.is_down = False
        self.most = 0

    async def attempt(self, _: Target, number: int) -> str:
        self.most = max(self.most, number)
        if self.is_down:
            raise AttemptFailedError(Unavailable("away"), "status_503", is_retryable=True)
        return "answer"

    async def runs(self, seconds: float) -> tuple[float, float]:
        """Attempts per request, and the share of the requests that were answered."""
        before, count, good = self.router.attempts, int(seconds * RATE), 0
        for _ in range(count):
            self.clock.advance(1 / RATE)
            asked = question()
            try:
                await self.router.run(asked, self.attempt)
                good += 1
            except ServiceError:
                pass
            finally:
                asked.route.end()
        return (self.router.attempts - before) / count, good / count


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("text", [ONE, THREE], ids=["one target", "three targets"])
async def test_an_outage_of_a_minute_makes_no_storm_and_is_over_when_it_is_over(text: str, seed: int) -> None:
    minute = Minute(text, seed)
    assert await minute.runs(WARM_UP_S) == (1, 1)
    minute.is_down = True
    at_first, _ = await minute.runs(10)
    later, answered = await minute.runs(OUTAGE_S - 10)
    assert at_first <= 2
    assert later <= 1.2
    assert answered == 0
    assert minute.most <= 3
    minute.is_down = False
    await minute.runs(10)
    attempts, answered = await minute.runs(HEALED_S)
    assert answered >= 0.99
    assert attempts <= 1.01
