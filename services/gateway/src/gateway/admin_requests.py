"""What an administrator may say of keys and tenants. Unknown fields are refused, numbers have bounds."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from common.identity import Priority  # noqa: TC001  # pydantic reads it at run time
from gateway.access.keys import CachePolicy, Limits
from gateway.access.records import KeyRecord, TenantRecord
from gateway.requests import Model

MOST_MODELS = 100
_LAST_SECOND = 253_402_300_799  # of the year 9999


def _unix_seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("Input should be Unix seconds or an RFC 3339 time with its offset")
    return moment.timestamp()


Moment = Annotated[
    float,
    BeforeValidator(
        _unix_seconds, json_schema_input_type=float | Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    ),
    Field(gt=0, le=_LAST_SECOND, description="Unix seconds, or RFC 3339; answered as Unix seconds. Null: never."),
]
TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=128)]


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class LimitsRequest(_Strict):
    """Null, or left out when a record is made: no limit."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10**9)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=10**12)] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=10**6)] | None = None
    budget_usd_per_day: Annotated[float, Field(gt=0, le=10**9)] | None = None
    budget_usd_per_month: Annotated[float, Field(gt=0, le=10**9)] | None = None
    mode: Literal["enforce", "shadow"] | None = None

    def upon(self, limits: Limits) -> Limits:
        """These limits with what was said changed (RFC 7396: null removes)."""
        said: dict[str, Any] = self.model_dump(exclude_unset=True)
        if "mode" in said:
            said["mode"] = said["mode"] or "enforce"
        return dataclasses.replace(limits, **said)


ModelLimits = Annotated[dict[Model, LimitsRequest | None], Field(max_length=MOST_MODELS)]


class _Limited(_Strict):
    limits: LimitsRequest | None = None
    model_limits: ModelLimits | None = None
    enabled: bool = True

    def limits_upon(self, record: KeyRecord | TenantRecord) -> dict[str, Any]:
        """The fields `limits` and `model_limits` of the changed record, where they were named."""
        fields: dict[str, Any] = {}
        if "limits" in self.model_fields_set:
            fields["limits"] = self.limits.upon(record.limits) if self.limits else Limits()
        if "model_limits" in self.model_fields_set:
            kept = dict(record.model_limits) if self.model_limits else {}
            for model, said in (self.model_limits or {}).items():
                if said is None:
                    kept.pop(model, None)
                else:
                    kept[model] = said.upon(kept.get(model, Limits()))
            fields["model_limits"] = kept
        return fields


_PLAIN = {"models", "cache", "priority", "trusted_trace", "capture_content", "expires_at", "enabled", "name"}


class _KeyFields(_Limited):
    models: Annotated[list[Model], Field(max_length=MOST_MODELS, description="Null: every model.")] | None = None
    cache: CachePolicy = "all"
    priority: Annotated[Priority, Field(description="The highest that its requests may have.")] = "interactive"
    trusted_trace: Annotated[bool, Field(description="Its requests' traces go on; else they are linked.")] = False
    capture_content: Annotated[bool, Field(description="Its messages may be in traces.")] = False
    expires_at: Moment | None = None

    def upon(self, record: KeyRecord) -> KeyRecord:
        """The record with what was named changed."""
        plain = self.model_dump(include=_PLAIN, exclude_unset=True)
        if plain.get("models") is not None:
            plain["models"] = tuple(plain["models"])
        return dataclasses.replace(record, **plain, **self.limits_upon(record))


class KeyRequest(_KeyFields):
    """A new API key."""

    model_config = _example(tenant="acme", name="laptop", limits={"requests_per_minute": 600}, models=["sim-small"])

    tenant: TenantName
    name: Name


class KeyChange(_KeyFields):
    """What changes of an API key, as a merge patch (RFC 7396): what is not named stays."""

    model_config = _example(limits={"budget_usd_per_day": 20}, enabled=False)

    name: Name = "unchanged"


class RotationRequest(_Strict):
    """A new secret for a key; the old one stays good for the grace period."""

    model_config = _example(grace_s=3_600)

    grace_s: Annotated[float, Field(ge=0, le=30 * 86_400, description="Seconds.")] = 3_600


class TenantChange(_Limited):
    """What changes of a tenant, as a merge patch (RFC 7396): what is not named stays."""

    model_config = _example(limits={"tokens_per_minute": 200_000}, model_limits={"sim-large": {"max_concurrency": 2}})

    def upon(self, record: TenantRecord) -> TenantRecord:
        plain = self.model_dump(include={"enabled"}, exclude_unset=True)
        return dataclasses.replace(record, **plain, **self.limits_upon(record))


class TenantRequest(TenantChange):
    """A tenant's record, as a whole: what is not named is not limited."""

    def record(self, tenant: str) -> TenantRecord:
        return self.upon(TenantRecord(tenant))


class DeclaredKey(_KeyFields):
    """A key in the keys file: its digest in place of itself."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tenant: TenantName
    name: Name
    previous_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    previous_until: Moment | None = None

    def record(self) -> KeyRecord:
        blank = KeyRecord(
            self.id,
            self.digest,
            self.tenant,
            self.name,
            previous_digest=self.previous_digest,
            previous_until=self.previous_until,
            is_declared=True,
        )
        return self.upon(blank)


class DeclaredTenant(TenantRequest):
    tenant: TenantName


class KeysFile(_Strict):
    """The whole keys file."""

    keys: Annotated[list[DeclaredKey], Field(max_length=10_000)] = []
    tenants: Annotated[list[DeclaredTenant], Field(max_length=10_000)] = []
