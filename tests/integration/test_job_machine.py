"""Every script of the jobs service in any order, against a model in Python, over a real store."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from jobs.record import FINAL
from support.job_queue import DAY, LEASE, JobQueue

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jobs.record import Claim
    from support.valkey import Valkey

TENANTS = ("alice", "bob", "carol")
PER_TENANT, IN_ALL, MAX_ATTEMPTS = 4, 9, 3
DEADLINE = 60_000


@dataclass
class Job:
    tenant: str
    digest: str
    deadline: int
    state: str = "queued"
    attempts: int = 0
    fence: int = 0
    lease: int = 0
    due: int = 0
    ends: int = 0
    starts: int = 0
    given_back: int = 0
    is_dead: bool = False


class Machine(RuleBasedStateMachine):
    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.queue = JobQueue(url)
        self.queue.bounds = type(self.queue.bounds)(PER_TENANT, IN_ALL)
        self.jobs: dict[str, Job] = {}
        self.gone: set[str] = set()
        self.keys: dict[tuple[str, str], str] = {}
        self.ring: list[str] = []
        self.ready: dict[str, list[str]] = {tenant: [] for tenant in TENANTS}
        self.final: dict[str, str] = {}
        self.finished: Counter[str] = Counter()

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.do(self.queue.close())
        self.runner.close()

    # What the scripts are held to.

    def enqueue(self, job_id: str, *, first: bool = False) -> None:
        job = self.jobs[job_id]
        job.state = "queued"
        waiting = self.ready[job.tenant]
        waiting.insert(0 if first else len(waiting), job_id)
        if len(waiting) == 1:
            self.ring.append(job.tenant)

    def settle(self, job_id: str, state: str, *, dead: bool = False) -> None:
        job = self.jobs[job_id]
        if job.state == "queued":
            self.ready[job.tenant].remove(job_id)
            if not self.ready[job.tenant]:
                self.ring.remove(job.tenant)
        job.state, job.is_dead = state, dead
        self.finished[state] += 1
        job.ends = self.queue.now + (7 * DAY if dead else DAY)

    def open_jobs(self, tenant: str | None = None) -> int:
        return sum(job.state not in FINAL and tenant in (None, job.tenant) for job in self.jobs.values())

    # The rules.

    @rule(
        target=ids,
        tenant=st.sampled_from(TENANTS),
        key=st.sampled_from(["", "k1", "k2"]),
        digest=st.sampled_from(["d1", "d2"]),
        deadline=st.sampled_from([DEADLINE, DEADLINE * 60, DEADLINE * 60]),
    )
    def accept(self, tenant: str, key: str, digest: str, deadline: int) -> Any:
        job_id = f"job_{len(self.jobs) + len(self.gone):04x}"
        fields = {"idempotency": key, "digest": digest, "deadline_ms": deadline, "max_attempts": MAX_ATTEMPTS}
        outcome, meant = self.do(self.queue.accept(job_id, tenant, **fields))
        known = self.keys.get((tenant, key)) if key else None
        if known is not None:
            same = (self.jobs[known].digest if known in self.jobs else None) in (digest, None)
            assert meant == known
            assert outcome == "dup" if same and known in self.jobs else outcome in ("dup", "mismatch")
            return known
        if self.open_jobs(tenant) >= PER_TENANT:
            assert outcome == "tenant_full"
            return multiple()
        if self.open_jobs() >= IN_ALL:
            assert outcome == "full"
            return multiple()
        assert (outcome, meant) == ("ok", job_id)
        self.jobs[job_id] = Job(tenant, digest, self.queue.now + deadline)
        self.enqueue(job_id)
        if key:
            self.keys[tenant, key] = job_id
        return job_id

    @rule(target=claims)
    def claim(self) -> Any:
        claim = self.do(self.queue.next())
        expected = None
        while expected is None and self.ring:
            tenant = self.ring.pop(0)
            job_id = self.ready[tenant].pop(0)
            if self.ready[tenant]:
                self.ring.append(tenant)
            if self.jobs[job_id].deadline <= self.queue.now:
                self.jobs[job_id].state = "popped"
                self.settle(job_id, "expired")
            else:
                expected = job_id
        assert (None if claim is None else claim.id) == expected
        if claim is None:
            return multiple()
        job = self.jobs[claim.id]
        job.state, job.lease = "running", self.queue.now + LEASE
        job.fence, job.attempts, job.starts = job.fence + 1, job.attempts + 1, job.starts + 1
        assert (claim.fence, claim.record.attempts) == (job.fence, job.attempts)
        return claim

    def holds(self, claim: Claim) -> tuple[Job | None, bool]:
        """The job, and whether this claim, of all there ever were, is the one that counts."""
        job = self.jobs.get(claim.id)
        return job, job is not None and job.state == "running" and claim.fence == job.fence

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        job, holds = self.holds(claim)
        (reply,) = self.do(self.queue.transitions.heartbeat(LEASE, [claim]))
        if job is not None and holds:
            job.lease = self.queue.now + LEASE
        assert reply == ("ok" if holds else "cancel" if job and job.state == "cancelled" else "lost")

    @rule(claim=claims, state=st.sampled_from(["succeeded", "failed", "expired"]))
    def finish(self, claim: Claim, state: Any) -> None:
        job, holds = self.holds(claim)
        reply = self.do(self.queue.transitions.finish(claim, state, result=b"sealed" if state == "succeeded" else b""))
        if holds:
            self.settle(claim.id, state)
        assert reply == (job.state if job and job.state in FINAL else "fenced")

    @rule(claim=claims, delay=st.sampled_from([0, 5_000]), give_back=st.booleans())
    def release(self, claim: Claim, delay: int, give_back: bool) -> None:
        job, holds = self.holds(claim)
        transitions = self.queue.transitions
        reply = self.do(transitions.release(claim, delay_ms=delay, give_back=give_back, error=b"{}", code="x"))
        if job is not None and holds:
            if give_back:
                job.attempts, job.given_back = job.attempts - 1, job.given_back + 1
            if not give_back and job.attempts >= MAX_ATTEMPTS:
                self.settle(claim.id, "failed", dead=True)
            elif delay:
                job.state, job.due = "delayed", self.queue.now + delay
            else:
                self.enqueue(claim.id, first=True)
        assert reply == (job.state if job and claim.fence == job.fence else "fenced")

    @rule(job_id=ids, tenant=st.sampled_from([*TENANTS, ""]))
    def cancel(self, job_id: str, tenant: str) -> None:
        reply = self.do(self.queue.transitions.cancel(job_id, tenant=tenant))
        job = self.jobs.get(job_id)
        if job is None or tenant not in ("", job.tenant):
            assert reply == "none"
            return
        if job.state not in FINAL:
            self.settle(job_id, "cancelled")
        assert reply == job.state

    @rule(job_id=ids)
    def purge(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        assert self.do(self.queue.transitions.purge(job_id)) == (job is not None and job.is_dead)
        if job is not None and job.is_dead:
            self.forget(job_id)

    @rule(times=st.integers(1, 2))
    def reap(self, times: int) -> None:
        for _ in range(times):  # a second reaper changes nothing
            self.do(self.queue.transitions.reap())
        now = self.queue.now

        def due(at: str, state: str | None = None) -> list[str]:
            """In the order of the zset: by score, then by id."""
            found = [
                (getattr(job, at), job_id)
                for job_id, job in self.jobs.items()
                if (job.state == state if state else job.state not in FINAL) and getattr(job, at) <= now
            ]
            return [job_id for _, job_id in sorted(found)]

        for job_id in due("deadline"):
            self.settle(job_id, "expired")
        for job_id in due("lease", "running"):
            if self.jobs[job_id].attempts >= MAX_ATTEMPTS:
                self.settle(job_id, "failed", dead=True)
            elif self.jobs[job_id].attempts == 1:
                self.enqueue(job_id, first=True)
            else:
                self.jobs[job_id].state, self.jobs[job_id].due = "delayed", now + int(job_id[-4:], 16)
        for job_id in due("due", "delayed"):
            self.enqueue(job_id)
        for job_id in [job_id for job_id, job in self.jobs.items() if job.state in FINAL and job.ends <= now]:
            self.forget(job_id)

    def forget(self, job_id: str) -> None:
        del self.jobs[job_id]
        self.gone.add(job_id)

    @rule(ms=st.sampled_from([1_000, 6_000, LEASE + 1, DEADLINE]))
    def pass_time(self, ms: int) -> None:
        self.queue.now += ms

    @rule()
    def a_day_passes(self) -> None:
        self.queue.now += DAY + 3_600_000
        self.reap(1)
        self.queue.now += 1

    @rule(times=st.integers(1, 3))
    def workers_die(self, times: int) -> None:
        """All that runs is lost, claimed again, and lost again."""
        for _ in range(times):
            self.queue.now += LEASE + 1
            self.reap(1)
            self.claim()

    # What is always so.

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        self.do(self.compare())

    @invariant()
    def each_end_is_counted_once_however_often_it_is_said(self) -> None:
        assert self.queue.transitions.finished == self.finished
        assert self.queue.transitions.submitted.total() == len(self.jobs) + len(self.gone)

    async def compare(self) -> None:
        redis, prefix = self.queue.redis, self.queue.prefix

        async def zset(name: str) -> set[str]:
            return {member.decode() for member in await redis.zrange(f"{prefix}:{name}", 0, -1)}

        async def items(name: str) -> list[str]:
            return [member.decode() for member in await redis.lrange(f"{prefix}:{name}", 0, -1)]

        assert await items("ring") == self.ring
        for tenant in TENANTS:
            assert await items(f"ready:{tenant}") == self.ready[tenant]
        with_state: dict[str, set[str]] = {}
        bytes_in_all = 0
        for job_id, job in self.jobs.items():
            stored = await redis.hgetall(f"{prefix}:job:{job_id}")
            assert (stored[b"state"].decode(), int(stored[b"attempts"])) == (job.state, job.attempts)
            assert int(stored[b"fence"]) == job.fence == job.starts
            assert job.attempts <= MAX_ATTEMPTS
            assert (b"request" in stored) == (job.state not in FINAL or job.is_dead)
            bytes_in_all += int(stored[b"bytes"])
            with_state.setdefault(job.state, set()).add(job_id)
            if job.state in FINAL:  # and never changes
                assert self.final.setdefault(job_id, job.state) == job.state
        opened = {job_id for job_id, job in self.jobs.items() if job.state not in FINAL}
        assert await zset("deadlines") == opened
        assert await zset("leases") == with_state.get("running", set())
        assert await zset("delayed") == with_state.get("delayed", set())
        assert await zset("dead") == {job_id for job_id, job in self.jobs.items() if job.is_dead}
        assert await zset("ends") == self.jobs.keys() - opened
        assert await zset("all") == self.jobs.keys()
        assert int(await redis.get(f"{prefix}:bytes") or 0) == bytes_in_all
        depth = await redis.hgetall(f"{prefix}:depth")
        assert {tenant.decode(): int(count) for tenant, count in depth.items()} == {
            tenant: count for tenant in TENANTS if (count := self.open_jobs(tenant))
        }
        if self.ring:
            assert await redis.llen(f"{prefix}:wake")


def test_any_order_of_the_scripts_keeps_every_promise(state_store: Valkey) -> None:
    run_state_machine_as_test(
        lambda: Machine(state_store.url),  # type: ignore[arg-type]  # called, as its class would be
        settings=settings(
            max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
