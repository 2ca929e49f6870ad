"""What an administrator is answered, for the OpenAPI document: tests hold each answer to it. Times are Unix seconds.

Fields that may be null count as optional, because FastAPI leaves null out of the examples; the answers have them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.identity import Priority  # noqa: TC001  # pydantic reads it at run time, here and below
from gateway.access.keys import CachePolicy  # noqa: TC001  # as above

_LIMITS: dict[str, Any] = {
    "requests_per_minute": 600,
    "budget_usd_per_day": 20.0,
    "mode": "enforce",
}
_KEY: dict[str, Any] = {
    "id": "0123456789abcdef",
    "tenant": "acme",
    "name": "laptop",
    "enabled": True,
    "models": ["sim-small"],
    "limits": _LIMITS,
    "model_limits": {},
    "cache": "all",
    "priority": "interactive",
    "trusted_trace": False,
    "capture_content": False,
    "created_at": 1_795_536_000.0,
    "is_declared": False,
    "last_used_at": 1_795_536_060.0,
}
_TENANT = {"tenant": "acme", "enabled": True, "limits": _LIMITS, "model_limits": {}, "is_declared": False}
_ENTRY: dict[str, Any] = {
    "id": "1795536000000-0",
    "at": 1_795_536_000.0,
    "by": "admin:1ce59b2e",
    "request_id": "req_0123456789abcdef0123456789abcdef",
    "action": "key.change",
    "subject": "0123456789abcdef",
    "before": {"enabled": True},
    "after": {"enabled": False},
}
_USED = {
    "day": "2026-11-24",
    "tenant": "acme",
    "key": "0123456789abcdef",
    "model": "sim-small",
    "requests": 10,
    "refused": 1,
    "cached": 3,
    "input_tokens": 300,
    "output_tokens": 1_200,
    "cost_micro_usd": 1_950,
    "cost_unknown": 0,
    "estimated": 0,
    "cost_usd": 0.00195,
}
_COUNTERS = {"hits": 30, "misses": 10, "follows": 2, "stored": 9}
_STATISTICS: dict[str, Any] = {
    "total": _COUNTERS,
    "tenants": {"acme": _COUNTERS},
    "store": {"keys": 12, "used_bytes": 1_200_000, "max_bytes": 67_108_864, "evicted_keys": 0},
    "replica": {
        "hits_from_memory": 4,
        "flights": 0,
        "dropped_puts": 0,
        "broken_seals": 0,
        "faults": 0,
        "breaker_openings": 0,
        "is_left_alone": False,
    },
}
_JOB: dict[str, Any] = {
    "id": "job_0123456789abcdef0123456789abcdef",
    "object": "job",
    "state": "failed",
    "endpoint": "/generate",
    "attempts": 3,
    "max_attempts": 3,
    "created_at": 1_795_536_000.0,
    "started_at": 1_795_536_001.0,
    "finished_at": 1_795_536_009.0,
    "deadline_at": 1_795_539_600.0,
    "expires_at": 1_795_622_409.0,
    "tenant": "acme",
    "key_id": "0123456789abcdef",
    "request_id": "req_0123456789abcdef0123456789abcdef",
    "code": "upstream_error",
    "status": 502,
}
_JOBS: dict[str, Any] = {
    "object": "list",
    "data": [_JOB],
    "has_more": False,
    "counts": {
        "queued": 0,
        "running": 0,
        "delayed": 0,
        "final": 1,
        "dead": 1,
        "bytes": 2_048,
        "max_bytes": 134_217_728,
    },
}


def _as(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class LimitsShown(BaseModel):
    """Null: no limit."""

    model_config = _as(_LIMITS)

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    budget_usd_per_day: float | None = None
    budget_usd_per_month: float | None = None
    mode: Literal["enforce", "shadow"]


class KeyShown(BaseModel):
    """A key's record, without the key and its digests."""

    model_config = _as(_KEY)

    id: str
    tenant: str
    name: str
    enabled: bool
    expires_at: float | None = None
    models: Annotated[list[str] | None, Field(description="Null: every model.")] = None
    limits: LimitsShown
    model_limits: dict[str, LimitsShown]
    cache: CachePolicy
    priority: Priority
    trusted_trace: bool
    capture_content: bool
    created_at: float | None = None
    previous_until: Annotated[float | None, Field(description="Until when the key before a rotation is good.")] = None
    is_declared: Annotated[bool, Field(description="It stands in the keys file: only there can it be changed.")]
    last_used_at: float | None = None


class KeyMade(KeyShown):
    """The same with the key itself, which is shown this once."""

    model_config = _as({"key": "sw_live_0123456789abcdef_…"} | _KEY)

    key: str


class KeyPage(BaseModel):
    model_config = _as({"data": [_KEY]})

    data: list[KeyShown]
    next_after: str | None = None


class TenantShown(BaseModel):
    """What applies to all keys of a tenant together."""

    model_config = _as(_TENANT)

    tenant: str
    enabled: bool
    limits: LimitsShown
    model_limits: dict[str, LimitsShown]
    is_declared: bool


class TenantPage(BaseModel):
    model_config = _as({"data": [_TENANT]})

    data: list[TenantShown]
    next_after: str | None = None


class AuditEntry(BaseModel):
    """Of a change only the fields that differ."""

    model_config = _as(_ENTRY)

    id: str
    at: float
    by: Annotated[str, Field(description="The beginning of the SHA-256 of the admin key.")]
    request_id: str
    action: str
    subject: Annotated[str, Field(description="A key's id, or a tenant.")]
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class AuditPage(BaseModel):
    model_config = _as({"data": [_ENTRY]})

    data: list[AuditEntry]
    next_before: str | None = None


class UsageShown(BaseModel):
    """Of one UTC day, tenant, key and model."""

    model_config = _as(_USED)

    day: str
    tenant: str
    key: str
    model: str
    requests: int
    refused: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    cost_unknown: Annotated[int, Field(description="Answers whose price nobody knows.")]
    estimated: Annotated[int, Field(description="Answers whose tokens are an estimate.")]
    cost_usd: float


class UsagePage(BaseModel):
    model_config = _as({"from": "2026-11-24", "to": "2026-11-24", "data": [_USED]})

    from_: Annotated[str, Field(alias="from")]
    to: str
    data: list[UsageShown]


class CacheCounters(BaseModel):
    model_config = _as(_COUNTERS)

    hits: int
    misses: int
    follows: Annotated[int, Field(description="Requests, or whole replicas, that waited for another's call.")]
    stored: int


class StoreShown(BaseModel):
    keys: int
    used_bytes: int
    max_bytes: Annotated[int, Field(description="0: no bound.")]
    evicted_keys: int


class ReplicaShown(BaseModel):
    """What the gateway that answers counted itself."""

    hits_from_memory: int
    flights: int
    dropped_puts: int
    broken_seals: Annotated[int, Field(description="Other than 0 is an alarm.")]
    faults: int
    breaker_openings: int
    is_left_alone: Annotated[bool, Field(description="The cache is not asked: its breaker is open.")]


class CacheStatistics(BaseModel):
    """Of all replicas, since each tenant's first request or 30 days."""

    model_config = _as(_STATISTICS)

    total: CacheCounters
    tenants: dict[str, CacheCounters]
    store: StoreShown
    replica: ReplicaShown


class Purged(BaseModel):
    model_config = _as({"deleted": 9, "is_complete": True})

    deleted: int
    is_complete: Annotated[bool, Field(description="False: make the same call again.")]


class JobShown(BaseModel):
    """A job of any tenant: neither what it was asked nor what it answered."""

    model_config = _as(_JOB)

    id: str
    object: Literal["job"]
    state: str
    endpoint: str
    attempts: int
    max_attempts: int
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    expires_at: float | None = None
    retry_at: float | None = None
    tenant: str
    key_id: str
    request_id: str
    code: Annotated[str | None, Field(description="Why it failed, or waits.")] = None
    status: int | None = None
    retry_of: str | None = None


class JobCounts(BaseModel):
    """Of all tenants."""

    queued: int
    running: int
    delayed: int
    final: int
    dead: int
    bytes: int
    max_bytes: int


class JobPage(BaseModel):
    model_config = _as(_JOBS)

    object: Literal["list"]
    data: list[JobShown]
    has_more: bool
    last_id: Annotated[str | None, Field(description="Goes into `after` for the next page.")] = None
    counts: JobCounts
