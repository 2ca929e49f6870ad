"""`x-ratelimit-*`, in OpenAI's names and format: what is left of the tightest limit, and when its bucket is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.limits.local import share
from gateway.limits.scopes import MINUTE_US

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.decision import Decision
    from gateway.limits.scopes import Claim
    from gateway.limits.verdict import LimitName, Standing, Verdict

_NAMES: dict[str, LimitName] = {
    "requests": "requests_per_minute",
    "tokens": "tokens_per_minute",
    "concurrency": "max_concurrency",
    "day_micro_usd": "budget_usd_per_day",
    "month_micro_usd": "budget_usd_per_month",
}
DEGRADED = "x-ratelimit-degraded"
_SECOND_US = 1_000_000


def show(
    verdict: Verdict, claims: Sequence[Claim], headers: dict[str, str], decision: Decision, *, replicas: int
) -> list[tuple[float, LimitName]]:
    """Write the tightest request and token limit into `headers`, the tightest of every kind into `decision`.

    Returns how much of each of these is used, 0 to 1.
    """
    shares: list[tuple[float, LimitName]] = []
    divisor = 1 if verdict.is_exact else replicas
    both = list(zip(claims, verdict.standings, strict=True))
    for kind, rates in (("requests", _requests(both, divisor)), ("tokens", _tokens(both, divisor))):
        if rates:
            left, limit, reset_us, scope = min(rates)
            headers[f"x-ratelimit-limit-{kind}"] = str(limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(left)
            headers[f"x-ratelimit-reset-{kind}"] = duration(reset_us)
            decision.note(kind, f"{left}/{limit}@{scope}")
            shares.append((_used(left, limit), _NAMES[kind]))
    running = [
        (share(claim.most_leases, divisor) - standing.leases, share(claim.most_leases, divisor), claim.scope.name)
        for claim, standing in both
        if claim.most_leases >= 0
    ]
    days = [(c.most_day - s.spent_day, c.most_day, c.scope.name) for c, s in both if c.most_day >= 0]
    months = [(c.most_month - s.spent_month, c.most_month, c.scope.name) for c, s in both if c.most_month >= 0]
    for kind, counts in (("concurrency", running), ("day_micro_usd", days), ("month_micro_usd", months)):
        if counts:
            left, limit, scope = min(counts)
            decision.note(kind, f"{max(left, 0)}/{limit}@{scope}")
            shares.append((_used(left, limit), _NAMES[kind]))
    return shares


def _used(left: int, limit: int) -> float:
    return min(max(1 - left / limit, 0.0), 1.0) if limit > 0 else 1.0


def _requests(both: Sequence[tuple[Claim, Standing]], divisor: int) -> list[tuple[int, int, int, str]]:
    return [
        _rate(claim.scope.limits.requests_per_minute, standing.requests_ahead_us, divisor, claim.scope.name)
        for claim, standing in both
        if claim.request_us >= 0
    ]


def _tokens(both: Sequence[tuple[Claim, Standing]], divisor: int) -> list[tuple[int, int, int, str]]:
    return [
        _rate(claim.scope.limits.tokens_per_minute, standing.tokens_ahead_us, divisor, claim.scope.name)
        for claim, standing in both
        if claim.tokens_us >= 0
    ]


def _rate(limit: int | None, ahead_us: int, divisor: int, scope: str) -> tuple[int, int, int, str]:
    granted = share(limit or 0, divisor)
    return max(MINUTE_US - ahead_us, 0) * granted // MINUTE_US, granted, ahead_us, scope


def duration(us: int) -> str:
    """As OpenAI writes it: `120ms`, `1s`, `6m0s`, `1h2m3s`; rounded up, so that it is true."""
    if us < _SECOND_US:
        return f"{-(-us // 1000)}ms"
    seconds = -(-us // _SECOND_US)
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
