"""Single scripts of the jobs service where the state machine does not look: turns, bounds, time, what is said twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jobs.errors import JobGone, NoSuchJob, StoreUnavailable
from jobs.hints import BLOCK_S, Hints
from jobs.store import JobStore
from jobs.transitions import Bounds
from support.job_queue import DAY, HOUR, LEASE, JobQueue
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def queue(state_store: Valkey) -> AsyncIterator[JobQueue]:
    found = JobQueue(state_store.url)
    yield found
    await found.close()


def store_of(queue: JobQueue) -> JobStore:
    return JobStore(queue.redis, max_bytes=queue.max_bytes, prefix=queue.prefix)


async def test_a_backlog_of_5000_does_not_hold_up_another_tenants_single_job(queue: JobQueue) -> None:
    queue.bounds = Bounds(10_000, 10_000)
    await queue.accepted(*(f"a{number}" for number in range(5_000)))
    for _ in range(3):
        await queue.claim()
    await queue.accepted("b", tenant="bob")
    assert "b" in [(await queue.claim()).id for _ in range(2)]


async def test_tenants_take_turns_and_a_tenants_own_jobs_keep_their_order(queue: JobQueue) -> None:
    await queue.accepted("a1", "a2", "a3")
    await queue.accepted("b1", "b2", tenant="bob")
    await queue.accepted("c1", tenant="carol")
    assert [(await queue.claim()).id for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_job_that_was_given_back_goes_before_its_tenants_others(queue: JobQueue) -> None:
    await queue.accepted("a1", "a2")
    assert await queue.transitions.release(await queue.claim(), give_back=True) == "queued"
    claim = await queue.claim()
    assert (claim.id, claim.record.attempts, claim.fence) == ("a1", 1, 2)


async def test_a_lost_job_is_told_to_the_worker_that_lost_it(queue: JobQueue) -> None:
    await queue.accepted("a")
    first = await queue.claim()
    queue.now += LEASE
    assert (await queue.transitions.reap()).lost == 1
    second = await queue.claim()
    assert await store_of(queue).stops() == {("a", first.fence)}
    assert await queue.transitions.heartbeat(LEASE, [first, second]) == ["lost", "ok"]
    assert await queue.transitions.append(first, [b"x"], before=0, max_bytes=99) == "lost"
    assert await queue.transitions.finish(first, "succeeded", result=b"late") == "fenced"
    assert await queue.transitions.finish(second, "succeeded", result=b"good") == "succeeded"
    assert await queue.transitions.finish(first, "succeeded", result=b"late") == "succeeded"
    assert (await queue.record("a")).result == b"good"


async def test_jobs_that_were_lost_together_twice_come_back_apart(queue: JobQueue) -> None:
    ids = [f"job_{number:04x}" for number in (0x0100, 0x0900, 0x1100)]
    await queue.accepted(*ids)
    for starts in (1, 2):
        assert {(await queue.claim()).record.attempts for _ in ids} == {starts}
        queue.now += LEASE
        await queue.transitions.reap()
    ready = [(await queue.record(job_id)).ready_at - queue.now for job_id in ids]
    assert ready == [0x0100, 0x0900, 0x1100]
    queue.now += 0x0900
    await queue.transitions.reap()
    assert [(await queue.claim()).id, (await queue.claim()).id] == ids[:2]
    assert await queue.next() is None


async def test_a_claim_whose_reply_was_lost_is_said_again_and_is_the_same(queue: JobQueue) -> None:
    await queue.accepted("a", "b")
    first = await queue.transitions.claim(LEASE, "n1")
    queue.now += LEASE - 1
    again = await queue.transitions.claim(LEASE, "n1")
    assert first is not None
    assert again is not None
    assert (again.id, again.fence, again.record.attempts) == (first.id, first.fence, 1)
    queue.now += LEASE - 1  # the lease began anew
    assert (await queue.transitions.reap()).lost == 0
    queue.now += 1
    assert (await queue.transitions.reap()).lost == 1
    other = await queue.transitions.claim(LEASE, "n2")
    assert other is not None
    assert (other.id, other.fence) == ("a", 2)
    late = await queue.transitions.claim(LEASE, "n1")  # what it was is another's now: it gets the next
    assert late is not None
    assert late.id == "b"


async def test_chunks_that_are_said_twice_are_kept_once(queue: JobQueue) -> None:
    await queue.accepted("a")
    claim = await queue.claim()
    for _ in range(2):
        assert await queue.transitions.append(claim, [b"one", b"two"], before=0, max_bytes=1_000) == "ok"
    assert await queue.transitions.append(claim, [b"three"], before=2, max_bytes=1_000) == "ok"
    events = await store_of(queue).events("a", 0)
    assert [event for event in events if event[:1] == b"c"] == [b"cone", b"ctwo", b"cthree"]


async def test_chunks_over_the_bound_of_an_attempt_are_refused_and_the_next_attempt_begins_anew(
    queue: JobQueue,
) -> None:
    await queue.accepted("a")
    claim = await queue.claim()
    assert await queue.transitions.append(claim, [b"x" * 60], before=0, max_bytes=100) == "ok"
    assert await queue.transitions.append(claim, [b"x" * 60], before=1, max_bytes=100) == "too_large"
    await queue.transitions.release(claim, give_back=True)
    assert await queue.transitions.append(await queue.claim(), [b"x" * 60], before=0, max_bytes=100) == "ok"


async def test_jobs_stop_being_accepted_at_the_byte_bound_and_go_on_once_there_is_room(queue: JobQueue) -> None:
    queue.max_bytes = 20_000
    accepted = 0
    while (await queue.accept(f"a{accepted}", request=b"x" * 1_000))[0] == "ok":
        accepted += 1
    assert accepted == 3  # 1,000 each, 1,024 around it and 4,096 kept for its result
    assert (await queue.accept("more", request=b"x" * 1_000))[0] == "full"
    assert (await queue.accept("a0"))[0] == "dup"  # who asks again is answered all the same
    claim = await queue.claim()
    assert await queue.transitions.finish(claim, "succeeded", result=b"x" * 9_000) == "failed"
    assert (await queue.record(claim.id)).code == "storage_full"
    assert (await queue.accept("more", request=b"x" * 1_000))[0] == "ok"


async def test_what_a_record_is_counted_as_is_what_it_takes(queue: JobQueue) -> None:
    await queue.accepted("warm")
    before = (await queue.redis.info("memory"))["used_memory"]
    await queue.accepted(*(f"job_{number:032x}" for number in range(500)), idempotency="", request=b"x" * 500)
    grown = (await queue.redis.info("memory"))["used_memory"] - before
    counted = int(await queue.redis.get(f"{queue.prefix}:bytes")) - 500 * 4_096
    assert grown < 1.5 * counted


async def test_results_are_kept_for_their_time_and_then_remembered_as_gone(queue: JobQueue) -> None:
    await queue.accepted("a", keep_ms=DAY)
    await queue.transitions.finish(await queue.claim(), "succeeded", result=b"r")
    queue.now += DAY - 1
    await queue.transitions.reap()
    assert (await store_of(queue).get("a", "alice")).result == b"r"
    queue.now += 1
    assert (await queue.transitions.reap()).ended == 1
    with pytest.raises(JobGone):
        await store_of(queue).get("a", "alice")
    with pytest.raises(NoSuchJob):
        await store_of(queue).get("a", "bob")
    left = {name.decode().removeprefix(queue.prefix) for name in await queue.redis.keys(f"{queue.prefix}*")}
    (claim,) = (name for name in left if name.startswith(":claim:"))
    assert 0 < await queue.redis.pttl(queue.prefix + claim) <= LEASE  # the server's own clock ends it
    assert left - {claim} <= {":bytes", ":gone:a", ":number", ":stops", ":wake"}


async def test_a_job_is_not_started_after_its_deadline(queue: JobQueue) -> None:
    await queue.accepted("late", "good", deadline_ms=HOUR)
    queue.now += HOUR
    await queue.accepted("new")
    assert (await queue.claim()).id == "new"
    assert (await queue.state("late"), await queue.state("good")) == ("expired", "expired")


async def test_a_claim_that_finds_nothing_takes_the_stale_hints_away(queue: JobQueue) -> None:
    await queue.accepted("a", "b")
    await queue.claim()
    await queue.claim()
    assert await queue.redis.llen(f"{queue.prefix}:wake") == 2
    assert await queue.next() is None
    assert await queue.redis.llen(f"{queue.prefix}:wake") == 0
    await queue.accepted("c")
    assert await queue.redis.llen(f"{queue.prefix}:wake") == 1


async def test_every_key_of_the_queue_is_in_one_cluster_slot_and_names_nothing_that_a_tenant_sent(
    queue: JobQueue,
) -> None:
    await queue.accepted("a", idempotency="digest", metadata=b"sealed")
    await queue.transitions.append(await queue.claim(), [b"x"], before=0, max_bytes=99)
    names = [name.decode() for name in await queue.redis.keys("*") if queue.prefix.encode() in name]
    assert len(names) > 9
    assert all(name.startswith(f"{queue.prefix}:") for name in names)  # the slot is that of what stands in braces


async def test_the_servers_clock_is_the_clock_in_production(queue: JobQueue) -> None:
    queue.transitions._clock = None
    await queue.accepted("a")
    seconds, _ = await queue.redis.time()
    assert abs((await queue.record("a")).created_at / 1000 - seconds) < 60
    assert (await queue.claim()).waited_s < 60


async def test_half_of_the_stores_memory_is_the_bound_when_that_is_less(queue: JobQueue) -> None:
    store = store_of(queue)
    await store.learn_memory()
    assert store.max_bytes() == queue.max_bytes
    await queue.redis.config_set("maxmemory", 100 * 2**20)
    try:
        await store.learn_memory()
        assert store.max_bytes() == 50 * 2**20
    finally:
        await queue.redis.config_set("maxmemory", 0)


async def test_a_worker_that_waits_is_woken_by_a_job_and_looks_by_itself_when_the_hint_was_lost(
    queue: JobQueue, state_store: Valkey
) -> None:
    async with Hints(state_store.url, prefix=queue.prefix) as hints, asyncio.timeout(BLOCK_S * 10):
        await hints.wait()  # nothing came
        waiting = asyncio.create_task(hints.wait())
        await queue.accepted("a")
        await waiting
        assert (await queue.claim()).id == "a"
        await queue.accepted("b")
        await queue.redis.delete(f"{queue.prefix}:wake")
        await hints.wait()
        assert (await queue.claim()).id == "b"


async def test_a_store_that_is_gone_is_told_to_whoever_waits_for_a_hint(tmp_path: Path) -> None:
    with valkey("state", tmp_path) as store:
        async with Hints(store.url) as hints, asyncio.timeout(BLOCK_S * 10):
            await hints.wait()
            store.freeze()
            with pytest.raises(StoreUnavailable):
                await hints.wait()
            store.thaw()
            await hints.wait()
            store.kill()
            with pytest.raises(StoreUnavailable):
                await hints.wait()
            store.bring_back()
            await hints.wait()
