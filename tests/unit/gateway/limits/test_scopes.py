"""Whose limits a call falls under, and what it takes of each in integers."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.access.authentication import Caller
from gateway.access.keys import Limits, Policy
from gateway.limits.scopes import MINUTE_US, Claim, interval_us, micro_dollars, scopes_of
from support.limits import scope_of

SIX = Limits(requests_per_minute=6)
ALL = Policy(SIX, SIX, {"m": SIX}, {"m": SIX})


def test_a_call_falls_under_key_tenant_and_either_with_its_model() -> None:
    scopes = scopes_of(Caller("alice", "k1", ALL), "m")
    assert [scope.name for scope in scopes] == ["key", "tenant", "key_model", "tenant_model"]
    names = {name for scope in scopes for name in (scope.counters, scope.leases)}
    assert len(names) == 8
    assert all("{alice}" in name for name in names)


def test_another_model_falls_under_key_and_tenant_alone() -> None:
    assert [scope.name for scope in scopes_of(Caller("alice", "k1", ALL), "other")] == ["key", "tenant"]


def test_keys_share_their_tenants_counters_and_nothing_else() -> None:
    one, two = (scopes_of(Caller("alice", key, ALL), "m") for key in ("k1", "k2"))
    assert [a.counters == b.counters for a, b in zip(one, two, strict=True)] == [False, True, False, True]


def test_tenants_share_nothing() -> None:
    one, two = (scopes_of(Caller(tenant, "k1", ALL), "m") for tenant in ("alice", "bob"))
    assert not {scope.counters for scope in one} & {scope.counters for scope in two}


def test_limits_that_limit_nothing_are_no_scope() -> None:
    assert scopes_of(Caller("alice", "k1"), "m") == []
    assert scopes_of(Caller("alice", "k1", Policy(Limits(mode="shadow"))), "m") == []


@pytest.mark.parametrize("field", [field for field in Limits.__dataclass_fields__ if field != "mode"])
def test_each_limit_alone_is_a_scope_even_if_it_allows_nothing(field: str) -> None:
    nothing: dict[str, Any] = {field: 0}
    assert len(scopes_of(Caller("alice", "k1", Policy(Limits(**nothing))), "m")) == 1


def test_a_claim_is_what_the_script_reads() -> None:
    limits = Limits(60, 120, 3, 0.5, 1.0, "shadow")
    assert Claim.of(scope_of(limits), 30).words() == (1_000_000, 15_000_000, 3, 500_000, 1_000_000, 1)
    assert Claim.of(scope_of(Limits()), 30).words() == (-1, -1, -1, -1, -1, 0)


@pytest.mark.parametrize(("amount", "per_minute", "us"), [(1, 7, 8_571_429), (0, 5, 0), (1, None, -1)])
def test_an_interval_is_rounded_up_so_that_no_more_passes(amount: int, per_minute: int | None, us: int) -> None:
    assert interval_us(amount, per_minute) == us


def test_of_a_limit_of_nothing_no_bucket_holds_one() -> None:
    assert interval_us(1, 0) > MINUTE_US


def test_dollars() -> None:
    assert [micro_dollars(value) for value in (None, 0, 0.1, 0.29)] == [-1, 0, 100_000, 290_000]
