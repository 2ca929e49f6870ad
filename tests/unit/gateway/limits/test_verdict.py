"""A refusal names the limit that holds the longest, whose it is, and a time after which it is over."""

from __future__ import annotations

import datetime as dt

import pytest

from gateway.access.keys import Limits
from gateway.limits.scopes import Claim, Scope, ScopeName
from gateway.limits.verdict import (
    CONCURRENCY,
    DAY,
    MONTH,
    REQUESTS,
    TOKENS,
    Standing,
    Verdict,
    month_of,
    refusal,
    violations,
)

LIMITS = Limits(60, 600, 2, 1.0, 2.0)
NOW = int(dt.datetime(2027, 2, 27, 22, tzinfo=dt.UTC).timestamp()) * 1_000_000
HOUR_S = 3600


def _claim(name: ScopeName = "key", tokens: int = 10) -> Claim:
    return Claim.of(Scope(name, LIMITS, name), tokens)


def _broken(bits: int, *, r: int = 0, t: int = 0, name: ScopeName = "key"):  # type: ignore[no-untyped-def]  # noqa: ANN202
    verdict = Verdict(is_admitted=False, now_us=NOW, day=0, month=0, standings=[Standing(bits, r, t, 0, 0, 0)])
    return list(violations(verdict, [_claim(name)], lease_wait_us=3_000_000))


@pytest.mark.parametrize(
    ("bits", "r", "t", "limit", "wait"),
    [
        (REQUESTS, 60_000_000, 0, "requests_per_minute", 1),
        (REQUESTS, 59_000_001, 0, "requests_per_minute", 1),
        (REQUESTS, 60_000_001, 0, "requests_per_minute", 2),
        (TOKENS, 0, 64_000_000, "tokens_per_minute", 5),
        (CONCURRENCY, 0, 0, "max_concurrency", 3),
        (DAY, 0, 0, "budget_usd_per_day", 2 * HOUR_S),
        (MONTH, 0, 0, "budget_usd_per_month", 26 * HOUR_S),
    ],
)
def test_a_wait_is_true_to_the_second_rounded_up(bits: int, r: int, t: int, limit: str, wait: int) -> None:
    worst, error = refusal(_broken(bits, r=r, t=t))
    assert worst.limit == limit
    assert error.headers["retry-after"] == str(wait)
    assert error.status == 429


def test_the_limit_that_holds_the_longest_is_named() -> None:
    worst, error = refusal(_broken(REQUESTS | TOKENS | CONCURRENCY, r=60_000_000, t=90_000_000))
    assert worst.limit == "tokens_per_minute"
    assert error.headers["retry-after"] == "31"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key", "The key's limit of"),
        ("tenant", "The tenant's limit of"),
        ("key_model", "The key's limit for this model of"),
        ("tenant_model", "The tenant's limit for this model of"),
    ],
)
def test_it_says_whose_limit_it_is(name: ScopeName, words: str) -> None:
    _, error = refusal(_broken(REQUESTS, r=60_000_000, name=name))
    assert error.code == f"{name}_requests_per_minute_exceeded"
    assert error.message.startswith(f"{words} 60 requests per minute is reached")


@pytest.mark.parametrize("bits", [DAY, MONTH])
def test_a_budget_that_is_used_up_is_not_to_be_retried(bits: int) -> None:
    _, error = refusal(_broken(bits))
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"


def test_another_refusal_may_be_retried() -> None:
    _, error = refusal(_broken(REQUESTS, r=60_000_000))
    assert error.type == "rate_limit_error"
    assert "x-should-retry" not in error.headers


@pytest.mark.parametrize(
    ("day", "days"), [((2027, 1, 31), 1), ((2028, 2, 1), 29), ((2027, 12, 31), 1), ((2027, 12, 1), 31)]
)
def test_a_month_lasts_as_long_as_the_calendar_says(day: tuple[int, int, int], days: int) -> None:
    now = int(dt.datetime(*day, tzinfo=dt.UTC).timestamp()) * 1_000_000
    verdict = Verdict(is_admitted=False, now_us=now, day=0, month=0, standings=[Standing(MONTH, 0, 0, 0, 0, 0)])
    (found,) = violations(verdict, [_claim()], lease_wait_us=0)
    assert found.wait_us == days * 86_400_000_000
    assert month_of(now + found.wait_us) == month_of(now) + 1
    assert month_of(now + found.wait_us - 1) == month_of(now)
