"""What the cache may do for one call: the request's `Cache-Control` (RFC 9111, 5.2.1) and its key's policy, judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.errors import ServiceError
from gateway.call import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from gateway.call import Call


class NotCached(ServiceError):
    """The caller wanted a cached answer or none (`only-if-cached`). A retry of the SDK's would change nothing."""

    status = 504
    type = "cache_error"
    code = "not_cached"


@dataclass(frozen=True, slots=True)
class Plan:
    looks: bool = True
    """An entry, or another's flight, may answer."""
    keeps: bool = True
    """The answer may be stored."""
    max_age_s: float | None = None
    """An older entry is none."""
    only_if_cached: bool = False
    why: str = ""
    """Why the cache is passed by; a word for the decision record."""

    @property
    def is_bypass(self) -> bool:
        return not self.looks and not self.keeps

    def passed_by(self, why: str) -> Plan:
        return _bypass(why)

    def alone(self) -> Plan:
        """The same without others: for those whom flights have failed."""
        return replace(self, looks=False)


def plan_of(call: Call) -> Plan:
    """`no-store` and a policy of `off` pass the cache by, both ways; `no-cache` wants a fresh answer that is stored."""
    policy = call.caller.policy.cache
    if policy == "off":
        return _bypass("policy-off")
    if policy == "deterministic" and not is_deterministic(call.endpoint, call.body):
        return _bypass("policy-deterministic")
    if not call.cache_control:
        return _PLAIN
    only_if_cached = "only-if-cached" in call.cache_control  # beside one of the next two it asks for the impossible
    if "no-store" in call.cache_control:
        return replace(_bypass("no-store"), only_if_cached=only_if_cached)
    if "no-cache" in call.cache_control:
        return Plan(looks=False, why="no-cache", only_if_cached=only_if_cached)
    return Plan(max_age_s=_max_age_s(call.cache_control), only_if_cached=only_if_cached)


def is_deterministic(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Whether the caller asked for the same answer every time: embeddings, a seed, or a temperature of 0."""
    temperature = body.get("temperature")
    return (
        endpoint == EMBEDDINGS or body.get("seed") is not None or (temperature is not None and float(temperature) == 0)
    )


_PLAIN = Plan()


def _bypass(why: str) -> Plan:
    return Plan(looks=False, keeps=False, why=why)


def _max_age_s(directives: frozenset[str]) -> float | None:
    """The least that is asked for; what is no number counts as 0: rather fresh than wrong (RFC 9111, 4.2.1)."""
    ages = [text.partition("=")[2].strip('"') for text in directives if text.startswith("max-age=")]
    return min((float(age) if age.isdecimal() else 0.0 for age in ages), default=None)
