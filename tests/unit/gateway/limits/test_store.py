"""How long callers of the *limits* store wait for it, to the millisecond, whatever it does."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.limiter import ADMIT
from gateway.limits.store import LARGEST_BATCH, MOST_WAIT_S, PROBE_EVERY_S, LimitsStore
from support.clock import JumpingLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

FOREVER_S = 3_600
A_TURN_S = 0.001


class Server:
    """Takes as long as it is told for each round trip."""

    def __init__(self, delay_s: Callable[[], float]) -> None:
        self.delay_s = delay_s
        self.trips = 0

    def pipeline(self, **_: Any) -> _Pipeline:
        return _Pipeline(self)

    async def set(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(self.delay_s())


class _Pipeline:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._commands = 0

    def execute_command(self, *_: Any) -> None:
        self._commands += 1

    async def execute(self, **_: Any) -> list[list[int]]:
        self._server.trips += 1
        await asyncio.sleep(self._server.delay_s())
        return [[1]] * self._commands


class Callers:
    """Of one store; what each of them waited, and whether the store was away for it."""

    def __init__(self, delay_s: Callable[[], float]) -> None:
        self.server = Server(delay_s)
        self.waits: list[tuple[float, bool]] = []

    async def _one(self, store: LimitsStore, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(after_s)
        began, is_away = loop.time(), False
        try:
            await store.submit(ADMIT, ["k"], [1])
        except LimitsStoreAwayError:
            is_away = True
        self.waits.append((loop.time() - began, is_away))

    def come(self, *after_s: float) -> Callers:
        async def all_of_them() -> None:
            store = LimitsStore(cast("Redis", self.server), clock=asyncio.get_running_loop().time)
            async with store.working(), asyncio.TaskGroup() as group:
                for one in after_s:
                    group.create_task(self._one(store, one))

        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(all_of_them())
        return self

    @property
    def longest_s(self) -> float:
        return max(waited for waited, _ in self.waits)


def test_of_a_silent_store_the_first_waits_200_ms_those_behind_it_no_longer_and_nobody_after_them() -> None:
    callers = Callers(lambda: FOREVER_S).come(0, 0, 0.05, 0.19, 0.3, 0.6, 1.4)
    assert [round(waited, 2) for waited, _ in callers.waits] == [0.2, 0.2, 0.15, 0.01, 0, 0, 0]
    assert all(is_away for _, is_away in callers.waits)


def test_who_comes_behind_a_slow_answer_does_not_wait_as_long_again_for_its_own() -> None:
    """190 ms for others and then 200 of its own were 390: a store that turns slow costs 250, as a silent one."""
    callers = Callers(lambda: 0.19).come(0, 0.001, 0.002)
    assert [is_away for _, is_away in callers.waits] == [False, True, True]
    assert callers.longest_s <= MOST_WAIT_S + A_TURN_S


@pytest.mark.parametrize("seed", range(20))
def test_nobody_waits_longer_than_a_quarter_of_a_second_whatever_the_store_does(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # no secret
    moods = ([0.0005], [0.06, 0.12], [0.0005, 0.15, 0.199], [0.0005, 0.19, FOREVER_S], [0.13])
    mood = chance.choice(moods)
    crowd = [chance.uniform(0, 5) for _ in range(300)] + [2.5] * (3 * LARGEST_BATCH)
    callers = Callers(lambda: chance.choice(mood)).come(*crowd)
    assert len(callers.waits) == len(crowd)
    assert callers.longest_s <= MOST_WAIT_S + A_TURN_S


def test_a_store_that_is_slow_for_good_is_asked_by_its_probe_alone() -> None:
    """One that takes 150 ms answers one caller at a time; it must not come and go with every second of them."""
    each_10_ms = [number / 100 for number in range(500)]
    callers = Callers(lambda: 0.15).come(*each_10_ms)
    waited = [one for one, _ in callers.waits if one > A_TURN_S]
    assert len(waited) < 30
    assert callers.server.trips <= 3


def test_a_store_that_is_back_is_asked_again_after_one_probe() -> None:
    delays = iter([FOREVER_S, FOREVER_S])  # of the first caller, and of the first probe
    callers = Callers(lambda: next(delays, 0.001)).come(0, 0.5, 0.35 + PROBE_EVERY_S)
    assert [is_away for _, is_away in callers.waits] == [True, True, False]
