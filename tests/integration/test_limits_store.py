"""The limits' scripts on a real Valkey, at times of the test's choice, and against a model of them in Python."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from common.errors import RateLimited
from common.stores import connect
from common.usage import Usage
from gateway.access.keys import Limits, Policy
from gateway.limits.learning import Experience
from gateway.limits.ledger import Ledger
from gateway.limits.limiter import Limiter
from gateway.limits.local import LocalLimits
from gateway.limits.scopes import MINUTE_US, Claim
from gateway.limits.settling import LEASE_US, Settling
from gateway.limits.store import LimitsStore
from gateway.limits.verdict import CONCURRENCY, DAY, DAY_US, MONTH, REQUESTS, TOKENS
from support.limits import SECOND, Scripts, call_under, known_models, scope_of, unique
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = int(dt.datetime(2027, 1, 31, 23, 0, tzinfo=dt.UTC).timestamp()) * SECOND
HOUR = 3600 * SECOND
NEVER = 86_400 * SECOND


@pytest.fixture(scope="module")
def limits_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey("limits", tmp_path_factory.mktemp("limits")) as server:
        yield server


@pytest.fixture(scope="module")
def client(limits_store: Valkey) -> Iterator[Redis]:
    with Redis.from_url(limits_store.url) as client:
        yield client


@pytest.fixture
def scripts(client: Redis) -> Scripts:
    return Scripts(client, NOW, unique("tenant"))


def claim(scripts: Scripts, limits: Limits, tokens: int = 0, key_id: str = "k1") -> Claim:
    return Claim.of(scope_of(limits, tenant=scripts.tenant, key_id=key_id), tokens)


def test_a_burst_of_a_minute_and_then_the_rate(scripts: Scripts) -> None:
    one = claim(scripts, Limits(requests_per_minute=6))
    assert [scripts.admit(unique("c"), [one]).is_admitted for _ in range(8)] == [True] * 6 + [False] * 2
    scripts.now += 10 * SECOND - 1
    assert scripts.admit(unique("c"), [one]).standings[0].violations == REQUESTS
    scripts.now += 1
    assert [scripts.admit(unique("c"), [one]).is_admitted for _ in range(2)] == [True, False]


def test_a_long_pause_saves_up_no_more_than_one_burst(scripts: Scripts) -> None:
    one = claim(scripts, Limits(requests_per_minute=3))
    scripts.admit(unique("c"), [one])
    scripts.now += HOUR // 4
    assert sum(scripts.admit(unique("c"), [one]).is_admitted for _ in range(10)) == 3


def test_tokens_are_taken_by_their_number(scripts: Scripts) -> None:
    limits = Limits(tokens_per_minute=100)
    assert scripts.admit(unique("c"), [claim(scripts, limits, 60)]).is_admitted
    assert scripts.admit(unique("c"), [claim(scripts, limits, 41)]).standings[0].violations == TOKENS
    assert scripts.admit(unique("c"), [claim(scripts, limits, 40)]).is_admitted


def test_what_one_scope_refuses_no_scope_counts(scripts: Scripts) -> None:
    wide = claim(scripts, Limits(requests_per_minute=5, tokens_per_minute=50, max_concurrency=5), 10)
    narrow = claim(scripts, Limits(requests_per_minute=1), key_id="narrow")
    assert scripts.admit(unique("c"), [wide, narrow]).is_admitted
    before = scripts.hash_of(wide)
    reply = scripts.admit(unique("c"), [wide, narrow])
    assert (reply.outcome, reply.standings[0].violations, reply.standings[1].violations) == (0, 0, REQUESTS)
    assert scripts.hash_of(wide) == before
    assert scripts.client.zcard(wide.scope.leases) == 1


def test_one_broken_limit_of_a_scope_leaves_its_others_alone(scripts: Scripts) -> None:
    limits = Limits(requests_per_minute=10, tokens_per_minute=100)
    scripts.admit(unique("c"), [claim(scripts, limits, 100)])
    before = scripts.hash_of(claim(scripts, limits))
    assert not scripts.admit(unique("c"), [claim(scripts, limits, 1)]).is_admitted
    assert scripts.hash_of(claim(scripts, limits)) == before


def test_a_shadow_refuses_nothing_and_counts_nothing_that_it_would_refuse(scripts: Scripts) -> None:
    shadow = claim(scripts, Limits(requests_per_minute=1, max_concurrency=1, mode="shadow"))
    replies = [scripts.admit(unique("c"), [shadow]) for _ in range(3)]
    assert [reply.is_admitted for reply in replies] == [True] * 3
    assert [reply.standings[0].violations for reply in replies] == [0, REQUESTS | CONCURRENCY, REQUESTS | CONCURRENCY]
    assert scripts.client.zcard(shadow.scope.leases) == 1


def test_what_comes_too_late_is_not_looked_at(scripts: Scripts) -> None:
    one = claim(scripts, Limits(requests_per_minute=1))
    assert scripts.admit(unique("c"), [one], not_after=NOW - 1).outcome == 2
    assert scripts.hash_of(one) == {}
    assert scripts.admit(unique("c"), [one], not_after=NOW).is_admitted


def test_leases_expire_unless_they_are_renewed(scripts: Scripts) -> None:
    one = claim(scripts, Limits(max_concurrency=2))
    kept, dead = unique("kept"), unique("dead")
    assert scripts.admit(kept, [one]).is_admitted
    assert scripts.admit(dead, [one]).is_admitted
    assert scripts.admit(unique("c"), [one]).standings[0].violations == CONCURRENCY
    scripts.now += LEASE_US - 1
    assert scripts.renew(kept, [one]) == 1
    assert not scripts.admit(unique("c"), [one]).is_admitted
    scripts.now += 1
    assert [scripts.admit(unique("c"), [one]).is_admitted for _ in range(2)] == [True, False]


def test_a_renewal_after_the_settlement_brings_nothing_back(scripts: Scripts) -> None:
    one, call = claim(scripts, Limits(max_concurrency=1)), unique("c")
    scripts.admit(call, [one])
    assert scripts.settle(call, [one], [(0, 0, 0)]) == 1
    assert scripts.renew(call, [one]) == 0
    assert scripts.admit(unique("c"), [one]).is_admitted


def test_a_call_is_settled_once(scripts: Scripts) -> None:
    limits, call = Limits(tokens_per_minute=100), unique("c")
    one = claim(scripts, limits, 100)
    scripts.admit(call, [one])
    back = -MINUTE_US // 2
    assert [scripts.settle(call, [one], [(0, back, 0)]) for _ in range(3)] == [1, 0, 0]
    assert scripts.admit(unique("c"), [claim(scripts, limits, 51)]).standings[0].violations == TOKENS
    assert scripts.admit(unique("c"), [claim(scripts, limits, 50)]).is_admitted


def test_more_than_was_reserved_is_owed(scripts: Scripts) -> None:
    limits, call = Limits(tokens_per_minute=60), unique("c")
    one = claim(scripts, limits, 30)
    scripts.admit(call, [one])
    scripts.settle(call, [one], [(0, 90 * SECOND, 0)])
    scripts.now += 60 * SECOND
    assert not scripts.admit(unique("c"), [claim(scripts, limits, 1)]).is_admitted
    scripts.now += SECOND
    assert scripts.admit(unique("c"), [claim(scripts, limits, 1)]).is_admitted


def test_what_takes_no_tokens_is_not_refused_for_those_of_others(scripts: Scripts) -> None:
    limits = Limits(tokens_per_minute=60)
    one, call = claim(scripts, limits, 1), unique("c")
    scripts.admit(call, [one])
    scripts.settle(call, [one], [(0, 90 * SECOND, 0)])
    assert scripts.admit(unique("c"), [claim(scripts, limits, 0)]).is_admitted
    assert not scripts.admit(unique("c"), [claim(scripts, limits, 1)]).is_admitted


def test_a_budget_ends_and_the_next_day_begins_anew(scripts: Scripts) -> None:
    one = claim(scripts, Limits(budget_usd_per_day=1.0))
    assert scripts.admit(unique("c"), [one], cost=700_000).is_admitted
    assert scripts.admit(unique("c"), [one], cost=300_001).standings[0].violations == DAY
    scripts.now += HOUR - 1
    assert not scripts.admit(unique("c"), [one], cost=300_001).is_admitted
    scripts.now += 1
    assert scripts.admit(unique("c"), [one], cost=1_000_000).is_admitted


def test_a_month_ends_at_its_last_midnight(scripts: Scripts) -> None:
    one = claim(scripts, Limits(budget_usd_per_month=1.0))
    assert scripts.admit(unique("c"), [one], cost=1_000_000).is_admitted
    assert scripts.admit(unique("c"), [one], cost=1).standings[0].violations == MONTH
    scripts.now += HOUR
    assert scripts.admit(unique("c"), [one], cost=1_000_000).is_admitted
    scripts.now += 27 * DAY_US
    assert scripts.admit(unique("c"), [one], cost=1).standings[0].violations == MONTH


def test_a_settlement_after_midnight_belongs_to_the_day_of_its_admission(scripts: Scripts) -> None:
    one, call = claim(scripts, Limits(budget_usd_per_day=1.0)), unique("c")
    admitted = scripts.admit(call, [one], cost=500_000)
    scripts.now += HOUR
    assert scripts.admit(unique("c"), [one], cost=600_000).is_admitted
    scripts.settle(call, [one], [(0, 0, 400_000)], day=admitted.day, month=admitted.month)
    assert scripts.admit(unique("c"), [one], cost=400_001).standings[0].violations == DAY
    assert scripts.admit(unique("c"), [one], cost=400_000).is_admitted


def test_what_only_counts_as_a_request_does_not_make_a_budget_forgotten(scripts: Scripts) -> None:
    limits = Limits(requests_per_minute=10, budget_usd_per_month=1.0)
    one = claim(scripts, limits)
    scripts.admit(unique("c"), [one], cost=1_000_000)
    kept_ms = scripts.client.pttl(one.scope.counters)
    scripts.admit(unique("c"), [Claim.of_rate(one.scope)])
    assert scripts.client.pttl(one.scope.counters) > kept_ms - 60_000


def test_a_settled_request_rate_does_not_make_a_budget_forgotten(scripts: Scripts) -> None:
    one = claim(scripts, Limits(requests_per_minute=10, budget_usd_per_month=1.0))
    scripts.admit(unique("c"), [one], cost=1_000_000)
    kept_ms = scripts.client.pttl(one.scope.counters)
    scripts.settle(unique("replay"), [Claim.of_rate(one.scope)], [(SECOND, 0, 0)])
    assert scripts.client.pttl(one.scope.counters) > kept_ms - 60_000


@settings(max_examples=200, deadline=None)
@given(st.datetimes(dt.datetime(1999, 1, 1), dt.datetime(2200, 1, 1)))  # noqa: DTZ001  # hypothesis wants them naive
def test_the_calendar_is_pythons(client: Redis, moment: dt.datetime) -> None:
    at = moment.replace(tzinfo=dt.UTC, microsecond=0)
    reply = Scripts(client, int(at.timestamp()) * SECOND, "calendar").admit("c", [])
    assert (reply.day, reply.month) == ((at.date() - dt.date(1970, 1, 1)).days, at.year * 12 + at.month)


class Bucket:
    """One scope as a leaky bucket: what the script keeps as arrival times is kept here as levels that run dry."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = 0
        self.tokens = 0
        self.leases: dict[str, int] = {}
        self.days: dict[dt.date, int] = {}
        self.months: dict[tuple[int, int], int] = {}

    def leak(self, us: int) -> None:
        self.requests, self.tokens = max(self.requests - us, 0), max(self.tokens - us, 0)

    def broken(self, claim: Claim, cost: int, now: int) -> int:
        today = dt.datetime.fromtimestamp(now // SECOND, dt.UTC).date()
        limits, bits = self.limits, 0
        if limits.requests_per_minute is not None and self.requests + claim.request_us > MINUTE_US:
            bits |= REQUESTS
        if claim.tokens_us > 0 and self.tokens + claim.tokens_us > MINUTE_US:  # who takes none is refused for none
            bits |= TOKENS
        self.leases = {call: end for call, end in self.leases.items() if end > now}
        if limits.max_concurrency is not None and len(self.leases) >= limits.max_concurrency:
            bits |= CONCURRENCY
        if limits.budget_usd_per_day is not None and self.days.get(today, 0) + cost > limits.budget_usd_per_day * 1e6:
            bits |= DAY
        spent = self.months.get((today.year, today.month), 0)
        if limits.budget_usd_per_month is not None and spent + cost > limits.budget_usd_per_month * 1e6:
            bits |= MONTH
        return bits

    def take(self, call: str, claim: Claim, cost: int, now: int) -> None:
        today = dt.datetime.fromtimestamp(now // SECOND, dt.UTC).date()
        self.requests += max(claim.request_us, 0)
        self.tokens += max(claim.tokens_us, 0)
        self.leases[call] = now + LEASE_US
        self.spend(cost, today)

    def spend(self, cost: int, day: dt.date) -> None:
        self.days[day] = max(self.days.get(day, 0) + cost, 0)
        month = (day.year, day.month)
        self.months[month] = max(self.months.get(month, 0) + cost, 0)


_LIMITS = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(1, 6),
    tokens_per_minute=st.none() | st.integers(20, 100),
    max_concurrency=st.none() | st.integers(1, 3),
    budget_usd_per_day=st.none() | st.just(0.0001),
    budget_usd_per_month=st.none() | st.just(0.0003),
    mode=st.sampled_from(["enforce", "enforce", "shadow"]),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 30), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.sampled_from([1, 999_999, 7 * SECOND, 31 * SECOND, HOUR, NEVER]), st.just(0)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 60)),
        st.tuples(st.just("renew"), st.integers(0, 9), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass(frozen=True)
class Running:
    """An admitted call, as the model knows it."""

    call: str
    tokens: int
    cost: int
    taken: list[int]
    on: dt.date
    day: int
    month: int


class Twins:
    """The scripts and the model, told the same things; each step compares them."""

    def __init__(self, client: Redis, limits: list[Limits]) -> None:
        self.scripts = Scripts(client, NOW, unique("tenant"))
        self.limits = limits
        self.buckets = [Bucket(one) for one in limits]
        self.scopes = [scope_of(one, tenant=self.scripts.tenant, key_id=f"k{at}") for at, one in enumerate(limits)]
        self.running: list[Running] = []

    def wait(self, us: int, _: int) -> None:
        self.scripts.now += us
        for bucket in self.buckets:
            bucket.leak(us)

    def admit(self, tokens: int, cost: int) -> None:
        now, call = self.scripts.now, unique("c")
        claims = [Claim.of(scope, tokens) for scope in self.scopes]
        broken = [bucket.broken(one, cost, now) for bucket, one in zip(self.buckets, claims, strict=True)]
        is_admitted = not any(bits for bits, one in zip(broken, self.limits, strict=True) if one.mode == "enforce")
        reply = self.scripts.admit(call, claims, cost=cost)
        assert reply.is_admitted == is_admitted
        assert [standing.violations for standing in reply.standings] == broken
        if is_admitted:
            taken = [at for at, bits in enumerate(broken) if not bits]
            for at in taken:
                self.buckets[at].take(call, claims[at], cost, now)
            today = dt.datetime.fromtimestamp(now // SECOND, dt.UTC).date()
            self.running.append(Running(call, tokens, cost, taken, today, reply.day, reply.month))
        for bucket, standing in zip(self.buckets, reply.standings, strict=True):
            assert standing.requests_ahead_us == bucket.requests
            assert standing.tokens_ahead_us == bucket.tokens

    def renew(self, which: int, _: int) -> None:
        if not self.running:
            return
        one = self.running[which % len(self.running)]
        leased = [at for at in one.taken if self.limits[at].max_concurrency is not None]
        assert self.scripts.renew(one.call, [Claim.of(self.scopes[at], 0) for at in leased]) == 1
        for at in leased:
            self.buckets[at].leases[one.call] = self.scripts.now + LEASE_US

    def settle(self, which: int, used: int) -> None:
        if not self.running:
            return
        one = self.running.pop(which % len(self.running))
        claims = [Claim.of(self.scopes[at], one.tokens) for at in one.taken]
        moves = []
        for at, claim in zip(one.taken, claims, strict=True):
            moved = Claim.of(self.scopes[at], used).tokens_us - claim.tokens_us
            spent = used - one.cost if claim.has_budget else 0
            moves.append((0, moved, spent))
            self.buckets[at].tokens = max(self.buckets[at].tokens + moved, 0)
            self.buckets[at].leases.pop(one.call, None)
            if claim.has_budget:
                self.buckets[at].spend(spent, one.on)
        assert self.scripts.settle(one.call, claims, moves, day=one.day, month=one.month) == 1
        assert self.scripts.settle(one.call, claims, moves, day=one.day, month=one.month) == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits=st.lists(_LIMITS, min_size=1, max_size=3), steps=_STEPS)
def test_the_scripts_do_what_a_leaky_bucket_does(
    client: Redis, limits: list[Limits], steps: list[tuple[str, int, int]]
) -> None:
    twins = Twins(client, limits)
    for action, first, second in steps:
        getattr(twins, action)(first, second)


def _policy(chance: random.Random) -> Policy:
    """Limits of every kind that ends by itself with time; which of them is met first is left to chance."""

    def some(low: int, high: int) -> int | None:
        return chance.choice([None, chance.randint(low, high)])

    budget = chance.choice([None, None, 0.002])
    key = Limits(requests_per_minute=chance.randint(1, 50), tokens_per_minute=some(300, 5_000))
    return Policy(key, Limits(tokens_per_minute=some(300, 5_000), budget_usd_per_day=budget))


async def test_a_caller_who_sleeps_as_long_as_told_is_admitted_100_times_of_100(limits_store: Valkey) -> None:
    chance = random.Random(20270131)  # noqa: S311  # no secret
    admitted = 0
    refused_a_second_earlier = 0
    async with connect(limits_store.url) as connection:
        store = LimitsStore(connection)
        settling = Settling(store)
        now = NOW
        limiter = Limiter(
            known_models({"input_usd": 1.0, "output_usd": 1.0}),
            LocalLimits(1),
            Experience(),
            Ledger(None),
            store,
            settling,
            store_time=lambda: now,
        )
        async with store.working():
            for _ in range(100):
                policy, tenant = _policy(chance), unique("tenant")

                def next_call(policy: Policy = policy, tenant: str = tenant):  # type: ignore[no-untyped-def]  # noqa: ANN202
                    return call_under(policy, tenant=tenant, max_tokens=100)

                wait_s = 0
                for _ in range(200):
                    now += chance.randrange(200_000)
                    try:
                        await limiter.admit(next_call())
                    except RateLimited as error:
                        wait_s = int(error.headers["retry-after"])
                        break
                assert wait_s >= 1
                told_at = now
                if wait_s > 1:
                    now = told_at + (wait_s - 1) * SECOND
                    with pytest.raises(RateLimited):
                        await limiter.admit(next_call())
                    refused_a_second_earlier += 1
                now = told_at + wait_s * SECOND
                await limiter.admit(next_call())
                admitted += 1
    assert admitted == 100
    assert refused_a_second_earlier > 20


async def test_what_an_answer_did_not_need_is_there_for_the_next_one(limits_store: Valkey) -> None:
    policy, tenant = Policy(Limits(tokens_per_minute=1_000)), unique("tenant")
    async with connect(limits_store.url) as connection:
        store = LimitsStore(connection)
        settling = Settling(store)
        limiter = Limiter(
            known_models(), LocalLimits(1), Experience(), Ledger(None), store, settling, store_time=lambda: NOW
        )
        async with store.working():
            admission = await limiter.admit(call_under(policy, tenant=tenant, max_tokens=900))
            with pytest.raises(RateLimited):
                await limiter.admit(call_under(policy, tenant=tenant, max_tokens=900))
            admission.reservation.usage = Usage(10, 20)
            admission.reservation.release()
            await settling.flush()
            again = call_under(policy, tenant=tenant, max_tokens=900)
            await limiter.admit(again)
    assert int(again.answer_headers["x-ratelimit-remaining-tokens"]) == 1_000 - 30 - 906
