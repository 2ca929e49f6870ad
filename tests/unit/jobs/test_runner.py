"""Which jobs a worker runs and when it stops them by itself, over stand-ins for the store and a clock that is moved."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from jobs.errors import StoreUnavailable
from jobs.execution import LostError
from jobs.record import Claim, Record
from jobs.runner import Runner
from jobs.settings import WorkerSettings
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

SECRET = "a-secret-of-the-tests-0123456789"
BOUND_S = 5


def settings(**changed: Any) -> WorkerSettings:
    given = {"state_url": "redis://x", "seal_secret": SECRET, "gateway_hop_secret": SECRET, "heartbeat_s": 0.1}
    return WorkerSettings.model_validate({**given, "lease_s": 10, **changed})


def claim(number: int) -> Claim:
    fields: dict[bytes, bytes] = {
        b"tenant": b"alice", b"key_id": b"k", b"state": b"running", b"endpoint": b"/generate", b"attempts": b"1",
        b"max_attempts": b"3", b"created_at": b"1", b"deadline": b"2", b"ready_at": b"1",
    }  # fmt: skip
    return Claim(Record.from_hash(f"job_{number}", fields), fence=number, remaining_s=60, waited_s=0)


class Queue:
    """Stands for the transitions, the store and the hints at once."""

    def __init__(self, jobs: int) -> None:
        self.waiting = [claim(number) for number in range(jobs)]
        self.beat = "ok"
        self.is_away = False
        self.stopped: set[tuple[str, int]] = set()
        self.released: list[tuple[str, bool]] = []

    async def claim(self, _: int, __: str) -> Claim | None:
        self._look()
        return self.waiting.pop(0) if self.waiting else None

    async def heartbeat(self, _: int, claims: Sequence[Claim]) -> list[str]:
        self._look()
        return [self.beat for _ in claims]

    async def release(self, one: Claim, *, give_back: bool, **_: Any) -> str:
        self._look()
        self.released.append((one.id, give_back))
        return "queued"

    async def stops(self) -> set[tuple[str, int]]:
        self._look()
        return self.stopped

    async def wait(self) -> None:
        self._look()
        await asyncio.sleep(3600)

    def _look(self) -> None:
        if self.is_away:
            raise StoreUnavailable("test")


class Work:
    """Runs until it is told to end; remembers what was started and what was cancelled."""

    def __init__(self, **ends: str) -> None:
        self.ends = ends
        """What the job of that id comes to at once; the others run on."""
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.changed = asyncio.Condition()

    async def __call__(self, one: Claim) -> str:
        await self._note(self.started, one.id)
        if one.id in self.ends:
            return self.ends[one.id]
        try:
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits for so long")
        except asyncio.CancelledError:
            await self._note(self.cancelled, one.id)
            raise

    async def until(self, what: list[str], count: int) -> None:
        async with asyncio.timeout(BOUND_S), self.changed:
            await self.changed.wait_for(lambda: len(what) >= count)

    async def _note(self, where: list[str], job_id: str) -> None:
        async with self.changed:
            where.append(job_id)
            self.changed.notify_all()


def runner(queue: Queue, work: Any, clock: Clock, waits: list[float] | None = None, **changed: Any) -> Runner:
    note_wait = ([] if waits is None else waits).append
    return Runner(queue, queue, queue, work, settings(**changed), note_wait=note_wait, clock=clock)  # type: ignore[arg-type]  # stand-ins


async def test_no_more_jobs_run_than_there_are_slots() -> None:
    queue, work = Queue(5), Work()
    async with runner(queue, work, Clock(), concurrency=2).running():
        await work.until(work.started, 2)
        assert (work.started, len(queue.waiting)) == (["job_0", "job_1"], 3)


async def test_a_stopping_worker_gives_back_what_runs_with_its_attempt() -> None:
    queue, work = Queue(2), Work()
    async with runner(queue, work, Clock()).running():
        await work.until(work.started, 2)
    assert sorted(work.cancelled) == ["job_0", "job_1"]
    assert sorted(queue.released) == [("job_0", True), ("job_1", True)]


async def test_each_run_is_counted_by_how_it_ended_and_each_claim_with_its_wait() -> None:
    queue, work, waits = Queue(3), Work(job_0="succeeded"), list[float]()
    one = runner(queue, work, Clock(), waits)
    async with one.running():
        await work.until(work.started, 3)
        queue.stopped = {("job_1", 1)}
        await work.until(work.cancelled, 1)
    assert +one.attempts == {"succeeded": 1, "stopped": 1, "given_back": 1}
    assert waits == [0, 0, 0]


async def test_a_run_that_nobody_foresaw_and_one_that_was_lost_are_counted_too() -> None:
    queue, over = Queue(2), asyncio.Event()

    async def work(one: Claim) -> str:
        if one.id == "job_0":
            raise LostError
        over.set()
        raise ValueError

    running = runner(queue, work, Clock())
    async with asyncio.timeout(BOUND_S), running.running():
        await over.wait()
    assert +running.attempts == {"stopped": 1, "internal_error": 1}


@pytest.mark.parametrize("beat", ["lost", "cancel"])
async def test_a_job_whose_heartbeat_is_refused_is_stopped_and_not_given_back(beat: str) -> None:
    queue, work, clock = Queue(1), Work(), Clock()
    queue.beat = beat
    async with runner(queue, work, clock).running():
        await work.until(work.started, 1)
        clock.advance(1)
        await work.until(work.cancelled, 1)
    assert queue.released == []


async def test_a_cancelled_job_is_stopped_before_its_next_heartbeat() -> None:
    queue, work = Queue(2), Work()
    async with runner(queue, work, Clock()).running():
        await work.until(work.started, 2)
        queue.stopped = {("job_1", 1), ("job_0", 99)}  # the latter another run of that job, of long ago
        await work.until(work.cancelled, 1)
        assert work.cancelled == ["job_1"]


async def test_a_worker_that_cannot_keep_a_lease_stops_the_job_before_anybody_else_starts_it() -> None:
    queue, work, clock = Queue(1), Work(), Clock()
    async with runner(queue, work, clock, lease_s=10).running():
        await work.until(work.started, 1)
        queue.is_away = True
        clock.advance(7.9)
        await asyncio.sleep(0)
        assert work.cancelled == []
        clock.advance(0.2)
        await work.until(work.cancelled, 1)
        queue.is_away = False


async def test_a_job_that_nobody_foresaw_uses_its_attempt_and_ends_no_worker() -> None:
    queue, done = Queue(2), asyncio.Event()

    async def work(one: Claim) -> None:
        if one.id == "job_0":
            raise ValueError("a prompt")
        done.set()

    async with runner(queue, work, Clock()).running():
        await asyncio.wait_for(done.wait(), BOUND_S)
    assert ("job_0", False) in queue.released


def test_two_heartbeats_have_to_fit_into_what_a_worker_grants_itself() -> None:
    with pytest.raises(ValidationError, match="WORKER_HEARTBEAT_S"):
        settings(lease_s=10, heartbeat_s=4.1)
    settings(lease_s=10, heartbeat_s=4)
