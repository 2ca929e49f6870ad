"""A process that is alone with the limits grants its share of them, and nobody gets a second burst."""

from __future__ import annotations

import datetime as dt

import pytest

from gateway.access.keys import Limits
from gateway.limits.local import LocalLimits, share
from gateway.limits.scopes import Claim
from gateway.limits.verdict import CONCURRENCY, DAY, MONTH, REQUESTS, TOKENS, Standing, Verdict
from support.clock import Clock
from support.limits import scope_of

BEFORE_MIDNIGHT = dt.datetime(2027, 1, 31, 23, 59, tzinfo=dt.UTC).timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock(BEFORE_MIDNIGHT)


def _claim(limits: Limits, tokens: int = 0, key_id: str = "k1") -> Claim:
    return Claim.of(scope_of(limits, key_id=key_id), tokens)


def _admitted(local: LocalLimits, claim: Claim, times: int, cost: int = 0) -> int:
    return sum(local.admit([claim], cost).is_admitted for _ in range(times))


def _heard(local: LocalLimits, claim: Claim, clock: Clock, *, spent: int = 0) -> None:
    alone = local.admit([], 0)
    now = int(clock() * 1_000_000)
    local.note(
        [claim],
        Verdict(
            is_admitted=True,
            now_us=now,
            day=alone.day,
            month=alone.month,
            standings=[Standing(0, 0, 0, 1, spent, spent)],
        ),
    )


def test_each_process_grants_its_share_of_the_rate(clock: Clock) -> None:
    local, claim = LocalLimits(3, clock=clock), _claim(Limits(requests_per_minute=60))
    assert _admitted(local, claim, 100) == 20
    clock.advance(6)
    assert _admitted(local, claim, 100) == 2


def test_tokens_and_places_are_shared_as_well(clock: Clock) -> None:
    local = LocalLimits(2, clock=clock)
    assert _admitted(local, _claim(Limits(tokens_per_minute=100), 10), 100) == 5
    assert _admitted(local, _claim(Limits(max_concurrency=5), key_id="k2"), 100) == 2


def test_what_one_scope_refuses_no_scope_counts(clock: Clock) -> None:
    local = LocalLimits(1, clock=clock)
    wide, narrow = _claim(Limits(requests_per_minute=2)), _claim(Limits(requests_per_minute=1), key_id="k2")
    assert local.admit([wide, narrow], 0).is_admitted
    refused = local.admit([wide, narrow], 0)
    assert [standing.violations for standing in refused.standings] == [0, REQUESTS]
    assert local.admit([wide], 0).is_admitted


def test_a_shadow_refuses_nothing(clock: Clock) -> None:
    local, claim = LocalLimits(1, clock=clock), _claim(Limits(requests_per_minute=1, mode="shadow"))
    assert [local.admit([claim], 0).standings[0].violations for _ in range(2)] == [0, REQUESTS]
    assert local.admit([claim], 0).is_admitted


def test_a_call_larger_than_the_share_passes_a_full_bucket_once(clock: Clock) -> None:
    local, claim = LocalLimits(10, clock=clock), _claim(Limits(tokens_per_minute=100), 50)
    assert [local.admit([claim], 0).standings[0].violations for _ in range(2)] == [0, TOKENS]


def test_going_local_gives_no_second_burst(clock: Clock) -> None:
    local, claim = LocalLimits(2, clock=clock), _claim(Limits(requests_per_minute=10))
    for _ in range(5):
        _heard(local, claim, clock)
    assert _admitted(local, claim, 10) == 0


def test_what_the_store_granted_beyond_the_share_is_not_owed(clock: Clock) -> None:
    local, claim = LocalLimits(2, clock=clock), _claim(Limits(requests_per_minute=10))
    for _ in range(10):
        _heard(local, claim, clock)
    clock.advance(12)
    assert _admitted(local, claim, 10) == 1


def test_a_settled_call_gives_back_its_place_and_its_tokens(clock: Clock) -> None:
    local, claim = LocalLimits(1, clock=clock), _claim(Limits(tokens_per_minute=100, max_concurrency=1), 100)
    verdict = local.admit([claim], 0)
    assert local.admit([claim], 0).standings[0].violations == TOKENS | CONCURRENCY
    local.settle([claim], [-claim.tokens_us], 0, verdict)
    assert local.admit([claim], 0).is_admitted


def test_a_tenth_of_an_unseen_budget_is_shared_out(clock: Clock) -> None:
    local, claim = LocalLimits(2, clock=clock), _claim(Limits(budget_usd_per_day=1.0))
    assert _admitted(local, claim, 100, cost=10_000) == 5


def test_of_a_known_budget_its_rest_is_shared_out(clock: Clock) -> None:
    local, claim = LocalLimits(2, clock=clock), _claim(Limits(budget_usd_per_day=1.0))
    _heard(local, claim, clock, spent=800_000)
    assert _admitted(local, claim, 100, cost=10_000) == 10
    assert local.admit([claim], 10_000).standings[0].violations == DAY


def test_a_new_day_and_month_begin_anew(clock: Clock) -> None:
    local, claim = LocalLimits(1, clock=clock), _claim(Limits(budget_usd_per_day=1.0, budget_usd_per_month=1.0))
    assert _admitted(local, claim, 100, cost=50_000) == 2
    assert local.admit([claim], 50_000).standings[0].violations == DAY | MONTH
    clock.advance(60)
    assert _admitted(local, claim, 100, cost=50_000) == 2


def test_a_settlement_after_midnight_does_not_bring_yesterday_back(clock: Clock) -> None:
    local, claim = LocalLimits(1, clock=clock), _claim(Limits(budget_usd_per_day=1.0))
    yesterday = local.admit([claim], 50_000)
    clock.advance(60)
    assert _admitted(local, claim, 100, cost=50_000) == 2
    local.settle([claim], [0], -50_000, yesterday)
    assert _admitted(local, claim, 100, cost=50_000) == 0


def test_a_limit_of_nothing_lets_nothing_through(clock: Clock) -> None:
    local, claim = LocalLimits(1, clock=clock), Claim.of_rate(scope_of(Limits(requests_per_minute=0)))
    assert not local.admit([claim], 0).is_admitted


def test_it_remembers_the_scopes_that_were_used_last(clock: Clock) -> None:
    local = LocalLimits(1, clock=clock, capacity=2)
    one, two, three = (_claim(Limits(requests_per_minute=1), key_id=key) for key in ("a", "b", "c"))
    for claim in (one, two, one, three):
        local.admit([claim], 0)
    assert not local.admit([one], 0).is_admitted
    assert local.admit([two], 0).is_admitted


@pytest.mark.parametrize(("limit", "replicas", "granted"), [(10, 3, 3), (1, 3, 1), (2, 3, 1), (0, 3, 0), (9, 1, 9)])
def test_a_share_is_at_least_one_of_what_is_not_forbidden(limit: int, replicas: int, granted: int) -> None:
    assert share(limit, replicas) == granted
