"""The slots as open-loop load meets them, in simulated time: exact on any machine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from common.errors import Overloaded
from common.identity import HopIdentity
from gateway.admission.turnstile import Turnstile
from gateway.decision import Decision
from support.clock import JumpingLoop

SLOTS = 16
CALL_S = 0.4
CAPACITY = SLOTS / CALL_S
PATIENCE_S = 60
Rate = float | Callable[[float], float]


@dataclass
class Seen:
    """Of one tenant, once the load had lasted for a while."""

    seconds: float
    waited_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return len(self.waited_s) / self.seconds

    @property
    def answered(self) -> float:
        return len(self.waited_s) / (len(self.waited_s) + len(self.refused_s))


class Load:
    """Arrivals of a Poisson process; calls take about as long as each other."""

    def __init__(self, seconds: float = 30, warm_up_s: float = 5) -> None:
        self._seconds, self._warm_up_s = seconds, warm_up_s
        self._chance = random.Random(1)  # noqa: S311  # no secret

    def of(self, **rates: Rate) -> dict[str, Seen]:
        """`rates`: of each tenant, calls a second, or a function of the time that says them."""
        seen = {tenant: Seen(self._seconds) for tenant in rates}
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(self._run(rates, seen))
        return seen

    async def _run(self, rates: dict[str, Rate], seen: dict[str, Seen]) -> None:
        turnstile = Turnstile(SLOTS, clock=asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as group:
            for tenant, rate in rates.items():
                group.create_task(self._arrivals(group, turnstile, tenant, rate, seen[tenant]))

    async def _arrivals(
        self, group: asyncio.TaskGroup, turnstile: Turnstile, tenant: str, rate: Rate, seen: Seen
    ) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self._warm_up_s + self._seconds:
            await asyncio.sleep(self._chance.expovariate(rate(loop.time()) if callable(rate) else rate))
            group.create_task(self._call(turnstile, tenant, seen))

    async def _call(self, turnstile: Turnstile, tenant: str, seen: Seen) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            slot = await turnstile.enter(HopIdentity(tenant, "key"), "m", Decision(), patience_s=PATIENCE_S)
        except Overloaded:
            if began >= self._warm_up_s:
                seen.refused_s.append(loop.time() - began)
            return
        if began >= self._warm_up_s:
            seen.waited_s.append(loop.time() - began)
        await asyncio.sleep(CALL_S * self._chance.uniform(0.8, 1.2))
        slot.release()


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


@pytest.mark.parametrize("multiple", [2, 5, 10])
def test_an_overload_is_a_plateau_and_a_refusal_comes_within_50_ms(multiple: float) -> None:
    seen = Load().of(alice=CAPACITY * multiple)["alice"]
    assert seen.goodput >= 0.9 * CAPACITY
    assert p99(seen.refused_s) <= 0.0501
    assert p99(seen.waited_s) <= 0.0501


def test_at_the_capacity_and_below_hardly_anybody_is_refused() -> None:
    assert Load().of(alice=CAPACITY * 0.8)["alice"].answered > 0.99
    assert Load().of(alice=CAPACITY)["alice"].answered > 0.9


def test_a_load_that_has_passed_leaves_nobody_impatient() -> None:
    """After ten times the capacity for 5 s, at the capacity: as if nothing had been."""
    assert Load().of(alice=lambda now: CAPACITY * (10 if now < 5 else 1))["alice"].answered > 0.9


def test_who_asks_for_ten_times_the_capacity_takes_nothing_from_one_who_asks_for_a_fifth() -> None:
    seen = Load().of(noisy=CAPACITY * 10, quiet=CAPACITY / 5)
    assert seen["quiet"].answered == 1
    assert p99(seen["quiet"].waited_s) <= CALL_S / 2
    assert seen["noisy"].goodput + seen["quiet"].goodput >= 0.9 * CAPACITY
