"""The scripts of an idempotency record, on a real Valkey, driven by Hypothesis against a model. Their clock is ours."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from common.stores import is_reachable
from gateway.caching.sealing import Sealer
from gateway.errors import StoreUnavailableError
from gateway.idempotency.errors import RecordLostError
from gateway.idempotency.records import PREFIX, Keeping, Records
from gateway.store_breaker import StoreBreaker
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from support.valkey import Valkey

T = TypeVar("T")
SEAL_BYTES = 1 + 12 + 16
OVERHEAD_BYTES = 512
KEEPING = Keeping(lease_s=30, keep_s=1_000, max_answer_bytes=2_000, tenant_bytes=4_000, total_bytes=6_000)
NAMES = st.sampled_from([f"{tenant}{number}" for tenant in ("alice", "bob") for number in range(3)])
OWNERS = st.sampled_from(["one", "two", "three"])
BODIES = st.sampled_from(["this body", "that body"])


def breaker_of(store: Redis) -> StoreBreaker:
    return StoreBreaker(lambda: is_reachable(store))


def tenant_of(name: str) -> str:
    return name.rstrip("0123456789")


@dataclass
class Model:
    """What a record is, in the plainest words."""

    body: str
    owner: str
    until: float
    answer: bytes | None = None
    waited: float | None = None

    @property
    def bytes_kept(self) -> int:
        if self.answer is None:
            return 0
        return OVERHEAD_BYTES + (len(self.answer) + SEAL_BYTES if self.answer else 0)


class RecordMachine(RuleBasedStateMachine):
    store_url: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.store = Redis.from_url(self.store_url)
        self.records = Records(
            self.store,
            Sealer("a-secret-of-the-gateway"),
            KEEPING,
            breaker=breaker_of(self.store),
            store_clock=lambda: round(self.clock.now * 1000),
        )
        self.model: dict[str, Model] = {}
        self.order: list[tuple[str, int, float]] = []
        """The kept answers, oldest first: name, bytes, end."""
        self.do(self.store.flushdb())

    def do(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    def teardown(self) -> None:
        self.do(self.store.aclose())
        self.runner.close()

    def live(self, name: str) -> Model | None:
        record = self.model.get(name)
        return record if record is not None and record.until > self.clock.now else None

    def kept(self, tenant: str | None = None) -> int:
        return sum(size for name, size, _ in self.order if tenant in (None, tenant_of(name)))

    def forget_the_old(self) -> None:
        self.order = [entry for entry in self.order if entry[2] > self.clock.now]

    @rule(seconds=st.sampled_from([1.0, 29.0, 31.0, 500.0, 1_001.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(name=NAMES, owner=OWNERS, body=BODIES)
    def claim(self, name: str, owner: str, body: str) -> None:
        claim = self.do(self.records.claim(name, owner=owner, tenant=tenant_of(name), body=body))
        record = self.live(name)
        if record is None:
            self.forget_the_old()
            if self.kept() >= KEEPING.total_bytes:
                assert claim.outcome == "full"
            else:
                assert claim.outcome == "claimed"
                self.model[name] = Model(body, owner, self.clock.now + KEEPING.lease_s)
        elif record.body != body:
            assert claim.outcome == "mismatch"
        elif record.answer is not None:
            assert (claim.outcome, claim.answer) == ("done", record.answer)
        elif record.owner == owner:
            assert claim.outcome == "claimed"
            record.until = self.clock.now + KEEPING.lease_s
        else:
            assert claim.outcome == "running"
            assert claim.lease_left_s == pytest.approx(record.until - self.clock.now)
            record.waited = self.clock.now

    @rule(name=NAMES, owner=OWNERS)
    def renew(self, name: str, owner: str) -> None:
        asked_s = self.do(self.records.renew(name, owner=owner))
        record = self.model.get(name)
        if record is None or record.owner != owner or record.answer is not None:
            assert asked_s is None
            return
        record.until = self.clock.now + KEEPING.lease_s
        assert asked_s == (
            float("inf") if record.waited is None else pytest.approx(self.clock.now - record.waited, abs=0.002)
        )

    @rule(name=NAMES, owner=OWNERS, size=st.sampled_from([1, 600, 1_500, 2_001]))
    def finish(self, name: str, owner: str, size: int) -> None:
        answer = owner.encode().ljust(size, b".")
        record = self.model.get(name)
        finishing = self.records.finish(name, owner=owner, tenant=tenant_of(name), answer=answer)
        if record is not None and record.owner != owner:
            with pytest.raises(RecordLostError):
                self.do(finishing)
            return
        is_kept = self.do(finishing)
        if record is None:
            assert not is_kept
            return
        if record.answer is not None:
            assert is_kept  # it was told before; what is kept stays what it was
            return
        kept = Model(record.body, owner, self.clock.now + KEEPING.keep_s, answer if size <= 2_000 else b"")
        tenant = tenant_of(name)
        while self.kept(tenant) + kept.bytes_kept > KEEPING.tenant_bytes:
            oldest = next(entry for entry in self.order if tenant_of(entry[0]) == tenant)
            self.order.remove(oldest)
            self.model.pop(oldest[0], None)
        if self.kept() + kept.bytes_kept > KEEPING.total_bytes:
            assert not is_kept
            del self.model[name]
            return
        assert is_kept
        self.model[name] = kept
        self.order.append((name, kept.bytes_kept, kept.until))

    @rule(name=NAMES, owner=OWNERS)
    def release(self, name: str, owner: str) -> None:
        self.do(self.records.release(name, owner=owner))
        record = self.model.get(name)
        if record is not None and record.owner == owner and record.answer is None:
            del self.model[name]

    @invariant()
    def what_is_kept_is_counted_and_bounded(self) -> None:
        counted = self.do(self.store.hgetall(PREFIX + "bytes"))
        assert int(counted.get(b":all", 0)) == self.kept() <= KEEPING.total_bytes
        for tenant in ("alice", "bob"):
            assert int(counted.get(tenant.encode(), 0)) == self.kept(tenant) <= KEEPING.tenant_bytes


def test_the_scripts_do_what_the_model_says(state_store: Valkey) -> None:
    machine = type("Machine", (RecordMachine,), {"store_url": state_store.url.replace("/0", "/7")})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=True,
        ),
    )


async def test_every_key_of_a_record_ends_by_itself(state_store: Valkey) -> None:
    async with Redis.from_url(state_store.url.replace("/0", "/8")) as store:
        records = Records(store, Sealer("a-secret-of-the-gateway"), KEEPING, breaker=breaker_of(store))
        assert (await records.claim("a", owner="one", tenant="alice", body="b")).outcome == "claimed"
        assert 0 < await store.pttl(PREFIX + "record:a") <= 2 * KEEPING.lease_s * 1000
        assert await records.finish("a", owner="one", tenant="alice", answer=b"yes")
        assert await store.pttl(PREFIX + "record:a") > 2 * KEEPING.lease_s * 1000
        assert await store.pttl(PREFIX + "kept:alice") > 0
        sealed = await store.hget(PREFIX + "record:a", "answer")
        assert isinstance(sealed, bytes)
        assert b"yes" not in sealed
        await store.flushdb()


async def test_a_store_that_is_away_is_left_alone_by_all_who_ask_it_and_one_that_refuses_is_not(
    state_store: Valkey,
) -> None:
    async with Redis.from_url(state_store.url.replace("/0", "/8")) as store:
        breaker = breaker_of(store)
        records = Records(store, Sealer("a-secret-of-the-gateway"), KEEPING, breaker=breaker)
        await store.rpush(PREFIX + "record:a", "no record")
        with pytest.raises(StoreUnavailableError) as refused:
            await records.claim("a", owner="one", tenant="alice", body="b")
        assert refused.value.reason == "ResponseError"
        assert not breaker.is_open, "keys can be read"
        await store.flushdb()
        breaker.trip("a key could not be read")
        with pytest.raises(StoreUnavailableError) as refused:
            await records.claim("a", owner="one", tenant="alice", body="b")
        assert refused.value.reason == "resting"
        await breaker.close()
    async with Redis.from_url("redis://127.0.0.1:9/0") as nobody:
        breaker = breaker_of(nobody)
        records = Records(nobody, Sealer("a-secret-of-the-gateway"), KEEPING, breaker=breaker)
        with pytest.raises(StoreUnavailableError):
            await records.claim("a", owner="one", tenant="alice", body="b")
        assert breaker.is_open
        await breaker.close()
