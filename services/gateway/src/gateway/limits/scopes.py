"""Whose limits a call falls under: the key's, the tenant's, and either's for the model that it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gateway.access.authentication import Caller
    from gateway.access.keys import Limits

MINUTE_US = 60_000_000
"""A bucket holds a minute's worth: so much may come at once, and the rest at the rate."""
_NO_LIMIT = -1

ScopeName = Literal["key", "tenant", "key_model", "tenant_model"]


@dataclass(frozen=True, slots=True)
class Scope:
    name: ScopeName
    limits: Limits
    counters: str
    """Name of its counters in the store; `leases` hangs on it. The tenant is the hash tag of all."""

    @property
    def leases(self) -> str:
        return f"{self.counters}:leases"

    @property
    def is_shadow(self) -> bool:
        return self.limits.mode == "shadow"


def scopes_of(caller: Caller, model: str) -> list[Scope]:
    """Those that limit something; none for a key without limits."""
    policy = caller.policy
    key, tenant = f"v1:limit:{{{caller.tenant}}}:key:{caller.key_id}", f"v1:limit:{{{caller.tenant}}}:tenant"
    found: list[tuple[ScopeName, Limits | None, str]] = [
        ("key", policy.key_limits, key),
        ("tenant", policy.tenant_limits, tenant),
    ]
    if policy.key_model_limits:
        found.append(("key_model", policy.key_model_limits.get(model), f"{key}:model:{model}"))
    if policy.tenant_model_limits:
        found.append(("tenant_model", policy.tenant_model_limits.get(model), f"{tenant}:model:{model}"))
    return [Scope(name, limits, counters) for name, limits, counters in found if limits and _limits_anything(limits)]


def _limits_anything(limits: Limits) -> bool:
    return not (
        limits.requests_per_minute is None
        and limits.tokens_per_minute is None
        and limits.max_concurrency is None
        and limits.budget_usd_per_day is None
        and limits.budget_usd_per_month is None
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """What one call takes of one scope, in the integers of the scripts; -1 stands for "no such limit"."""

    scope: Scope
    request_us: int
    """The time in which the limit lets one request through."""
    tokens_us: int
    """The time in which it lets this call's tokens through; 0: it takes none, and is refused for none."""
    most_leases: int
    most_day: int
    """Micro-dollars."""
    most_month: int

    @classmethod
    def of(cls, scope: Scope, tokens: int) -> Claim:
        limits = scope.limits
        return cls(
            scope,
            interval_us(1, limits.requests_per_minute),
            interval_us(tokens, limits.tokens_per_minute),
            _NO_LIMIT if limits.max_concurrency is None else limits.max_concurrency,
            micro_dollars(limits.budget_usd_per_day),
            micro_dollars(limits.budget_usd_per_month),
        )

    @classmethod
    def of_rate(cls, scope: Scope) -> Claim:
        """Of a call that runs nothing: it counts as a request, takes no token, and hears how many are left."""
        request_us = interval_us(1, scope.limits.requests_per_minute)
        tokens_us = _NO_LIMIT if scope.limits.tokens_per_minute is None else 0
        return cls(scope, request_us, tokens_us, _NO_LIMIT, _NO_LIMIT, _NO_LIMIT)

    @property
    def has_budget(self) -> bool:
        return self.most_day >= 0 or self.most_month >= 0

    def words(self) -> tuple[int, int, int, int, int, int]:
        """As `admit.lua` reads it."""
        is_shadow = int(self.scope.is_shadow)
        return self.request_us, self.tokens_us, self.most_leases, self.most_day, self.most_month, is_shadow


def interval_us(amount: int, per_minute: int | None) -> int:
    """How long a limit takes to let `amount` through, rounded up; of a limit of 0 longer than any bucket."""
    if per_minute is None:
        return _NO_LIMIT
    return -(-amount * MINUTE_US // per_minute) if per_minute > 0 else MINUTE_US + 1


def micro_dollars(dollars: float | None) -> int:
    return _NO_LIMIT if dollars is None else round(dollars * 1_000_000)
