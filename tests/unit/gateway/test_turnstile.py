from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from common.errors import BatchOverloaded, Overloaded
from common.identity import HopIdentity
from gateway.admission.turnstile import Slot, Turnstile
from gateway.decision import Decision
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.identity import Priority

LONG_S = 60


class Crowd:
    """Calls that come to a turnstile, and in which order they pass it."""

    def __init__(self, ceiling: int) -> None:
        self.clock = Clock()
        self.turnstile = Turnstile(ceiling, queue_wait_s=LONG_S, clock=self.clock)
        self.passed: list[str] = []
        self.slots: list[Slot] = []
        self.tasks: dict[str, asyncio.Task[Slot]] = {}
        self.decisions: dict[str, Decision] = {}

    async def come(
        self, name: str, tenant: str = "alice", priority: Priority = "interactive", model: str = "m"
    ) -> asyncio.Task[Slot]:
        decision = self.decisions[name] = Decision()
        identity = HopIdentity(tenant, "key", priority)

        async def enter() -> Slot:
            slot = await self.turnstile.enter(identity, model, decision, patience_s=LONG_S)
            self.passed.append(name)
            self.slots.append(slot)
            return slot

        task = self.tasks[name] = asyncio.create_task(enter())
        await turns()
        return task

    async def one_leaves(self) -> None:
        self.slots.pop(0).release()
        await turns()

    async def all_leave(self) -> None:
        while self.slots:
            await self.one_leaves()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_the_ceiling_pass_and_the_next_waits_for_a_slot() -> None:
    crowd = Crowd(2)
    for name in "abc":
        await crowd.come(name)
    assert crowd.passed == ["a", "b"]
    await crowd.one_leaves()
    assert crowd.passed == ["a", "b", "c"]


async def test_tenants_take_turns() -> None:
    crowd = Crowd(8)
    for number in range(8):
        await crowd.come(f"first{number}", "alice")
    for name in ("alice1", "alice2", "alice3"):
        await crowd.come(name, "alice")
    await crowd.come("bob1", "bob")
    crowd.passed.clear()
    for _ in range(4):
        await crowd.one_leaves()
    assert crowd.passed == ["bob1", "alice1", "alice2", "alice3"]


async def test_interactive_goes_before_batch() -> None:
    crowd = Crowd(4)
    for number in range(4):
        await crowd.come(f"first{number}")
    await crowd.come("batch", "alice", "batch")
    await crowd.come("interactive", "bob")
    crowd.passed.clear()
    await crowd.one_leaves()
    assert crowd.passed == ["interactive"]


async def test_batch_takes_no_more_than_four_fifths() -> None:
    crowd = Crowd(10)
    for number in range(9):
        await crowd.come(f"batch{number}", priority="batch")
    assert len(crowd.passed) == 8
    await crowd.come("interactive")
    assert crowd.passed[-1] == "interactive"


async def test_the_newest_goes_first_once_anybody_has_waited_100_ms() -> None:
    crowd = Crowd(4)
    for number in range(4):
        await crowd.come(f"first{number}")
    for name in ("old", "new"):
        await crowd.come(name)
    crowd.passed.clear()
    crowd.clock.advance(0.101)
    await crowd.one_leaves()
    assert crowd.passed == ["new"]


async def test_a_full_queue_refuses_and_says_whose_limit_it_was() -> None:
    crowd = Crowd(2)
    for name in "abc":
        await crowd.come(name)
    refused = await crowd.come("d")
    with pytest.raises(Overloaded) as error:
        await refused
    assert error.value.headers["retry-after"] == "1"
    assert crowd.decisions["d"].header() == "refused=queue_full; limit_of=platform"


async def test_in_a_full_queue_a_quiet_tenant_takes_a_noisy_ones_place() -> None:
    crowd = Crowd(8)
    for number in range(12):
        await crowd.come(f"noisy{number}", "noisy")
    await crowd.come("quiet", "quiet")
    with pytest.raises(Overloaded):
        await crowd.tasks["noisy8"]
    crowd.passed.clear()
    await crowd.one_leaves()
    await crowd.one_leaves()
    assert "quiet" in crowd.passed


async def test_in_a_full_queue_interactive_work_takes_the_place_of_batch() -> None:
    crowd = Crowd(2)
    await crowd.come("a")
    await crowd.come("b")
    await crowd.come("batch", "alice", "batch")
    await crowd.come("interactive")
    with pytest.raises(BatchOverloaded) as error:
        await crowd.tasks["batch"]
    assert error.value.status == 429
    await crowd.one_leaves()
    assert crowd.passed[-1] == "interactive"


async def test_who_waited_too_long_is_refused_and_leaves_no_trace() -> None:
    turnstile = Turnstile(1, queue_wait_s=0.01)
    held = await turnstile.enter(HopIdentity("alice", "key"), "m", Decision(), patience_s=LONG_S)
    decision = Decision()
    with pytest.raises(Overloaded):
        await turnstile.enter(HopIdentity("alice", "key"), "m", decision, patience_s=LONG_S)
    assert decision.facts["refused"] == "queue_wait"
    held.release()
    assert (turnstile.in_use, turnstile.waiting) == (0, 0)


async def test_a_waiter_whose_client_leaves_in_the_moment_of_its_turn_gives_the_slot_on() -> None:
    crowd = Crowd(4)
    for number in range(4):
        await crowd.come(f"first{number}")
    leaving = await crowd.come("leaving", "alice")
    await crowd.come("next", "bob")
    crowd.slots.pop(0).release()  # its turn has come, and it has not heard of it yet
    leaving.cancel()
    await turns()
    assert crowd.passed[-1] == "next"
    await crowd.all_leave()
    assert (crowd.turnstile.in_use, crowd.turnstile.waiting) == (0, 0)


async def test_a_slot_released_twice_is_released_once() -> None:
    crowd = Crowd(2)
    slot = await (await crowd.come("a"))
    slot.release()
    slot.release()
    assert crowd.turnstile.in_use == 0


async def test_one_models_trouble_leaves_the_others_their_slots() -> None:
    crowd = Crowd(100)
    for _ in range(60):
        slot = await (await crowd.come("x", model="troubled"))
        crowd.slots.clear()
        slot.verdict = "too_much"
        slot.release()
    crowd.passed.clear()
    for number in range(5):
        await crowd.come(f"troubled{number}", model="troubled")
    assert len(crowd.passed) == 4  # the floor
    for number in range(50):
        await crowd.come(f"healthy{number}", model="healthy")
    assert len(crowd.passed) == 54
    for task in crowd.tasks.values():
        task.cancel()


async def test_batch_is_refused_at_once_while_the_shedder_says_so() -> None:
    crowd = Crowd(10)
    crowd.turnstile.is_batch_shed = lambda: True
    with pytest.raises(BatchOverloaded):
        await (await crowd.come("batch", priority="batch"))
    await crowd.come("interactive")
    assert crowd.passed == ["interactive"]


async def test_models_that_nobody_serves_do_not_pile_up() -> None:
    crowd = Crowd(4)
    for number in range(2_000):
        slot = await crowd.turnstile.enter(HopIdentity("a", "k"), f"m{number}", Decision(), patience_s=LONG_S)
        slot.release()
    assert len(crowd.turnstile._models) <= 256


async def test_a_wait_is_within_its_span_and_a_call_that_passes_at_once_has_none() -> None:
    waits: list[str] = []

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        waits.append("begins")
        yield
        waits.append("ends")

    turnstile = Turnstile(1, queue_wait_s=LONG_S, waiting_span=waiting)
    identity = HopIdentity("alice", "key")
    first = await turnstile.enter(identity, "m", Decision(), patience_s=LONG_S)
    assert (waits, first.has_waited) == ([], False)
    second = asyncio.create_task(turnstile.enter(identity, "m", Decision(), patience_s=LONG_S))
    await turns()
    assert waits == ["begins"]
    first.release()
    assert (await second).has_waited
    assert waits == ["begins", "ends"]
