"""Limits of this process alone, for as long as the store is away: each process grants its share, limit ÷ processes.

It is told of every call also while the store decides, so that going local gives nobody a second burst.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.limits.scopes import MINUTE_US
from gateway.limits.verdict import CONCURRENCY, DAY, DAY_US, MONTH, REQUESTS, TOKENS, Standing, Verdict, month_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.limits.scopes import Claim

UNSEEN_SHARE = 0.1
"""Of a budget that this process has not seen since it started: no more than this is shared out blindly."""


@dataclass(slots=True)
class _Counters:
    requests_at: int = 0
    tokens_at: int = 0
    running: int = 0
    day: int = 0
    known_day: int | None = None
    """Spent by all on that day when the store last said so; None: it has not."""
    local_day: int = 0
    """Spent here since then."""
    month: int = 0
    known_month: int | None = None
    local_month: int = 0


class LocalLimits:
    """Remembers the `capacity` scopes that were used last."""

    def __init__(self, replicas: int, *, clock: Callable[[], float] = time.time, capacity: int = 10_000) -> None:
        self._replicas = replicas
        self._clock = clock
        self._capacity = capacity
        self._scopes: dict[str, _Counters] = {}

    def admit(self, claims: Sequence[Claim], cost: int) -> Verdict:
        """Decide as `admit.lua` does, by this process's share. A request larger than the share passes a full bucket."""
        now = int(self._clock() * 1_000_000)
        day, month = now // DAY_US, month_of(now)
        found = [(claim, self._counters(claim)) for claim in claims]
        broken = [self._violations(claim, counters, cost, now) for claim, counters in found]
        is_admitted = not any(bits for (claim, _), bits in zip(found, broken, strict=True) if not claim.scope.is_shadow)
        for (claim, counters), bits in zip(found, broken, strict=True):
            if is_admitted and not bits:
                self._charge(claim, counters, now)
                _spend(counters, cost, day, month)
        standings = [
            Standing(
                bits,
                max(counters.requests_at - now, 0),
                max(counters.tokens_at - now, 0),
                counters.running,
                (counters.known_day or 0) + counters.local_day if counters.day == day else 0,
                (counters.known_month or 0) + counters.local_month if counters.month == month else 0,
            )
            for (_, counters), bits in zip(found, broken, strict=True)
        ]
        return Verdict(is_admitted, now, day, month, standings, is_exact=False)

    def note(self, claims: Sequence[Claim], verdict: Verdict) -> None:
        """Remember what the store has admitted, and what it knows of the budgets."""
        now = int(self._clock() * 1_000_000)
        for claim, standing in zip(claims, verdict.standings, strict=True):
            counters = self._counters(claim)
            if verdict.is_admitted and not standing.violations:
                self._charge(claim, counters, now, most_ahead=MINUTE_US)
            if claim.has_budget:
                counters.day, counters.known_day, counters.local_day = verdict.day, standing.spent_day, 0
                counters.month, counters.known_month, counters.local_month = verdict.month, standing.spent_month, 0

    def settle(self, claims: Sequence[Claim], tokens_moved: Sequence[int], spent: int, verdict: Verdict) -> None:
        """Correct what `claims` took: by so many µs of tokens each, and so many micro-dollars."""
        for claim, moved in zip(claims, tokens_moved, strict=True):
            counters = self._scopes.get(claim.scope.counters)
            if counters is None:
                continue
            counters.running = max(counters.running - 1, 0)
            counters.tokens_at += moved * self._replicas
            if not verdict.is_exact:
                # As in the store: spending belongs to the day and month of its admission, if they are not over.
                counters.local_day += spent if counters.day == verdict.day else 0
                counters.local_month += spent if counters.month == verdict.month else 0

    def _violations(self, claim: Claim, counters: _Counters, cost: int, now: int) -> int:
        day, month = now // DAY_US, month_of(now) if claim.has_budget else 0
        bits = 0
        if _is_over(counters.requests_at, claim.request_us, self._replicas, now):
            bits |= REQUESTS
        if claim.tokens_us and _is_over(counters.tokens_at, claim.tokens_us, self._replicas, now):
            bits |= TOKENS
        if claim.most_leases >= 0 and counters.running >= share(claim.most_leases, self._replicas):
            bits |= CONCURRENCY
        if claim.most_day >= 0:
            known, spent = (counters.known_day, counters.local_day) if counters.day == day else (None, 0)
            if spent + cost > self._allowance(claim.most_day, known):
                bits |= DAY
        if claim.most_month >= 0:
            known, spent = (counters.known_month, counters.local_month) if counters.month == month else (None, 0)
            if spent + cost > self._allowance(claim.most_month, known):
                bits |= MONTH
        return bits

    def _allowance(self, most: int, known: int | None) -> float:
        """What this process may spend of a budget by itself; `known` was spent by all when the store last said so."""
        left = most * UNSEEN_SHARE if known is None else most - known
        return max(left, 0) / self._replicas

    def _charge(self, claim: Claim, counters: _Counters, now: int, most_ahead: int | None = None) -> None:
        # `most_ahead`: with uneven traffic this process's share may be used up by what the store admits, but not owed.
        if claim.request_us >= 0:
            at = max(counters.requests_at, now) + claim.request_us * self._replicas
            counters.requests_at = at if most_ahead is None else min(at, now + most_ahead)
        if claim.tokens_us >= 0:
            at = max(counters.tokens_at, now) + claim.tokens_us * self._replicas
            counters.tokens_at = at if most_ahead is None else min(at, now + most_ahead)
        counters.running += 1

    def _counters(self, claim: Claim) -> _Counters:
        name = claim.scope.counters
        counters = self._scopes.pop(name, None)
        if counters is None:
            counters = _Counters()
            if len(self._scopes) >= self._capacity:
                del self._scopes[next(iter(self._scopes))]
        self._scopes[name] = counters
        return counters


def _spend(counters: _Counters, cost: int, day: int, month: int) -> None:
    if counters.day != day:
        counters.day, counters.known_day, counters.local_day = day, None, 0
    if counters.month != month:
        counters.month, counters.known_month, counters.local_month = month, None, 0
    counters.local_day += cost
    counters.local_month += cost


def share(limit: int, replicas: int) -> int:
    """Of a count, rounded down; at least 1 of what is not forbidden."""
    return max(limit // replicas, min(limit, 1))


def _is_over(at: int, interval: int, replicas: int, now: int) -> bool:
    if interval > MINUTE_US:  # more than the whole limit, which may be 0
        return True
    ahead = max(at - now, 0)
    return interval >= 0 and ahead > 0 and ahead + interval * replicas > MINUTE_US
