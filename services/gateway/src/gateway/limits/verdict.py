"""What the limits say to one call, be it the store that was asked or this process alone."""

from __future__ import annotations

import calendar
import datetime as dt
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from common import wire
from common.errors import RateLimited
from gateway.limits.scopes import MINUTE_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.limits.scopes import Claim, Scope

REQUESTS, TOKENS, CONCURRENCY, DAY, MONTH = 1, 2, 4, 8, 16
DAY_US = 86_400_000_000
LimitName = Literal[
    "requests_per_minute", "tokens_per_minute", "max_concurrency", "budget_usd_per_day", "budget_usd_per_month"
]


class Standing(NamedTuple):
    """Of one scope, after the call was admitted or refused."""

    violations: int
    """Bits: 1 requests, 2 tokens, 4 concurrency, 8 day, 16 month."""
    requests_ahead_us: int
    """How long the bucket takes until it is full again."""
    tokens_ahead_us: int
    leases: int
    spent_day: int
    """Micro-dollars, what is reserved included."""
    spent_month: int


@dataclass(frozen=True, slots=True)
class Verdict:
    is_admitted: bool
    now_us: int
    day: int
    """Since 1970-01-01, UTC."""
    month: int
    """Year times 12 plus month."""
    standings: Sequence[Standing]
    is_exact: bool = True
    """The store said so; else this process alone, by its share."""


class Violation(NamedTuple):
    scope: Scope
    limit: LimitName
    wait_us: int
    """Until the call would be admitted, if nobody else comes."""


def violations(verdict: Verdict, claims: Sequence[Claim], *, lease_wait_us: int) -> Iterator[Violation]:
    """Each limit that stood in the way, those that only watch included."""
    for claim, standing in zip(claims, verdict.standings, strict=True):
        broken, scope = standing.violations, claim.scope
        if broken & REQUESTS:
            wait_us = standing.requests_ahead_us + claim.request_us - MINUTE_US
            yield Violation(scope, "requests_per_minute", wait_us)
        if broken & TOKENS:
            yield Violation(scope, "tokens_per_minute", standing.tokens_ahead_us + claim.tokens_us - MINUTE_US)
        if broken & CONCURRENCY:
            yield Violation(scope, "max_concurrency", lease_wait_us)
        if broken & DAY:
            yield Violation(scope, "budget_usd_per_day", DAY_US - verdict.now_us % DAY_US)
        if broken & MONTH:
            yield Violation(scope, "budget_usd_per_month", _until_next_month_us(verdict.now_us))


def refusal(broken: Sequence[Violation]) -> tuple[Violation, RateLimited]:
    """The limit to name, which is the one that holds the longest, and the error for the caller.

    `Retry-After` is in whole seconds, rounded up: RFC 9110, 10.2.3.
    """
    worst = max(broken, key=lambda violation: violation.wait_us)
    wait_s = max(1, math.ceil(worst.wait_us / 1_000_000))
    headers = {"retry-after": str(wait_s)}
    if worst.limit.startswith("budget"):
        error = RateLimited(f"{_named(worst)} is used up.", code="insufficient_quota", headers=headers | wire.FINAL)
        error.type = "insufficient_quota"
    else:
        message = f"{_named(worst)} is reached. Try again in {wait_s} s."
        error = RateLimited(message, code=f"{worst.scope.name}_{worst.limit}_exceeded", headers=headers)
    error.scope = worst.scope.name
    return worst, error


_WHOSE = {
    "key": "The key's limit",
    "tenant": "The tenant's limit",
    "key_model": "The key's limit for this model",
    "tenant_model": "The tenant's limit for this model",
}
_WHAT: dict[LimitName, str] = {
    "requests_per_minute": "{} requests per minute",
    "tokens_per_minute": "{} tokens per minute",
    "max_concurrency": "{} requests at the same time",
    "budget_usd_per_day": "{} US dollars a day",
    "budget_usd_per_month": "{} US dollars a month",
}


def _named(violation: Violation) -> str:
    limit = getattr(violation.scope.limits, violation.limit)
    return f"{_WHOSE[violation.scope.name]} of {_WHAT[violation.limit].format(limit)}"


def _until_next_month_us(now_us: int) -> int:
    today = dt.datetime.fromtimestamp(now_us // 1_000_000, dt.UTC)
    days_left = calendar.monthrange(today.year, today.month)[1] - today.day
    return days_left * DAY_US + DAY_US - now_us % DAY_US


def month_of(now_us: int) -> int:
    today = dt.datetime.fromtimestamp(now_us // 1_000_000, dt.UTC)
    return today.year * 12 + today.month
