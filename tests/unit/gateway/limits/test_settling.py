"""Settlements reach the store together, each once, and none is lost to a stop or to an outage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ReadOnlyError

from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.settling import ASKED_AGAIN_FOR_S, MOST_WAITING, RENEW, RENEW_EVERY_S, SETTLE, Settling
from gateway.limits.store import LimitsStore
from support.clock import Clock

if TYPE_CHECKING:
    from gateway.limits.store import Script

BOUND_S = 5


class Store:
    """Takes what it is given; answers when a test says so."""

    def __init__(self) -> None:
        self.is_resting = False
        self.taken: list[tuple[Script, tuple[Any, ...], asyncio.Future[Any]]] = []
        self.has_taken = asyncio.Event()

    def submit(self, script: Script, _: Any, words: Any) -> asyncio.Future[Any]:
        if self.is_resting:
            raise LimitsStoreAwayError("resting")
        answer = asyncio.get_running_loop().create_future()
        self.taken.append((script, tuple(words), answer))
        self.has_taken.set()
        return answer

    def answer(self, error: Exception | None = None) -> None:
        for _, _, answer in self.taken:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(1)

    @property
    def ids(self) -> list[str]:
        return [words[1] for _, words, _ in self.taken]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def settling(store: Store, clock: Clock) -> Settling:
    return Settling(store, clock=clock)  # type: ignore[arg-type]  # all that it needs of one


async def flush(settling: Settling, store: Store, error: Exception | None = None) -> None:
    flushing = asyncio.create_task(settling.flush())
    await asyncio.sleep(0)
    store.answer(error)
    async with asyncio.timeout(BOUND_S):
        await flushing


async def test_what_waits_goes_out_together_and_once(settling: Settling, store: Store) -> None:
    for name in ("a", "b", "c"):
        settling.settle(name, ["mark"], [1, 2])
    await flush(settling, store)
    await flush(settling, store)
    assert store.ids == ["a", "b", "c"]
    assert {script.name for script, _, _ in store.taken} == {SETTLE.name}


async def test_what_the_store_did_not_take_is_sent_again_in_its_order(settling: Settling, store: Store) -> None:
    store.is_resting = True
    settling.settle("a", [], [])
    settling.settle("b", [], [])
    await settling.flush()
    store.is_resting = False
    await flush(settling, store, LimitsStoreAwayError("TimeoutError"))
    await flush(settling, store)
    assert store.ids == ["a", "b", "a", "b"]
    assert settling.lost == 0


async def test_one_whose_answer_was_lost_is_not_sent_after_its_mark_may_be_gone(
    settling: Settling, store: Store, clock: Clock
) -> None:
    settling.settle("a", [], [])
    await flush(settling, store, LimitsStoreAwayError("TimeoutError"))
    clock.advance(ASKED_AGAIN_FOR_S + 1)
    await flush(settling, store)
    assert (store.ids, settling.lost) == (["a"], 1)


async def test_one_that_never_left_is_sent_however_long_the_store_was_away(
    settling: Settling, store: Store, clock: Clock
) -> None:
    store.is_resting = True
    settling.settle("a", [], [])
    await settling.flush()
    clock.advance(ASKED_AGAIN_FOR_S * 10)
    store.is_resting = False
    await flush(settling, store)
    assert (store.ids, settling.lost) == (["a"], 0)


async def test_of_too_many_the_oldest_are_lost_and_counted(settling: Settling, store: Store) -> None:
    for number in range(MOST_WAITING + 2):
        settling.settle(str(number), [], [])
    await flush(settling, store)
    assert (len(store.taken), store.ids[0], settling.lost) == (MOST_WAITING, "2", 2)


async def answer_both(store: Store) -> None:
    store.has_taken.clear()
    store.answer()
    await store.has_taken.wait()
    store.answer()


async def test_a_stop_waits_for_what_is_under_way_and_sends_the_rest(settling: Settling, store: Store) -> None:
    async with asyncio.timeout(BOUND_S):
        async with settling.working():
            settling.settle("under way", [], [])
            await store.has_taken.wait()
            settling.settle("the rest", [], [])
            answering = asyncio.create_task(answer_both(store))
    await answering
    assert store.ids == ["under way", "the rest"]
    assert [answer.cancelled() for _, _, answer in store.taken] == [False, False]


async def test_leases_are_renewed_while_their_calls_run(settling: Settling, store: Store, clock: Clock) -> None:
    settling.keep("a", "mark", ["leases"])
    await settling.renew()
    assert store.taken == []
    clock.advance(RENEW_EVERY_S)
    for _ in range(2):  # the second is not due yet
        renewing = asyncio.create_task(settling.renew())
        await asyncio.sleep(0)
        store.answer()
        await renewing
    assert [(script.name, words[1]) for script, words, _ in store.taken] == [(RENEW.name, "a")]
    clock.advance(RENEW_EVERY_S)
    settling.settle("a", [], [])
    await settling.renew()
    assert len(store.taken) == 1


class HalfFull:
    """A client whose server takes the last command of a batch and refuses the others."""

    def pipeline(self, *, transaction: bool) -> HalfFull:
        assert not transaction
        self.commands = 0
        return self

    def execute_command(self, *_: Any) -> None:
        self.commands += 1

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        assert not raise_on_error
        return [*[ReadOnlyError("READONLY")] * (self.commands - 1), 7]

    async def set(self, *_: Any, **__: Any) -> None:
        raise ReadOnlyError("READONLY")


async def test_what_a_store_counted_of_a_batch_is_not_told_to_be_lost() -> None:
    store = LimitsStore(HalfFull())  # type: ignore[arg-type]  # all that it needs of one
    async with asyncio.timeout(BOUND_S), store.working():
        first, second = (store.submit(SETTLE, [], [number]) for number in range(2))
        assert await second == 7
        with pytest.raises(LimitsStoreAwayError):
            await first
        assert store.is_resting
        with pytest.raises(LimitsStoreAwayError):
            store.submit(SETTLE, [], [])
