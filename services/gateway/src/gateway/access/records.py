"""What is stored of keys and tenants: their records, how they are read, and what follows from them."""

from __future__ import annotations

import dataclasses
import hmac
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from common.identity import Priority  # noqa: TC001  # pydantic reads it at run time
from gateway.access.keys import NO_LIMITS, ApiKey, CachePolicy, Limits, Policy, digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the state store, or the keys file, knows of a key; never the key. Times are Unix seconds."""

    kid: str
    digest: str
    tenant: str
    name: str
    enabled: bool = True
    expires_at: float | None = None
    models: tuple[str, ...] | None = None
    """Public names; None: every model."""
    limits: Limits = NO_LIMITS.key_limits
    model_limits: dict[str, Limits] = field(default_factory=dict)
    cache: CachePolicy = "all"
    priority: Priority = "interactive"
    trusted_trace: bool = False
    capture_content: bool = False
    created_at: float | None = None
    previous_digest: str | None = None
    """Of the key that was rotated away; good until `previous_until`."""
    previous_until: float | None = None
    is_declared: bool = False
    """It stands in the keys file: only there can it be changed."""

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a record, an older one too; fields of a later version are ignored. Raises `ValueError`: damaged."""
        try:
            record = _KEYS.validate_json(data)
        except ValidationError:
            raise ValueError("damaged key record") from None
        return record  # type: ignore[return-value]  # it is one of ours: nobody subclasses a record

    def is_live(self, now: float) -> bool:
        return self.enabled and (self.expires_at is None or now < self.expires_at)

    def is_of(self, digests: Sequence[str], now: float = 0) -> bool:
        """Whether one of `digests` (the key's, under each accepted pepper) is this record's; in constant time."""
        previous = self.previous_digest or _NO_DIGEST
        is_previous_good = self.previous_until is not None and now < self.previous_until
        current = sum(hmac.compare_digest(self.digest, digest) for digest in digests)
        rotated = sum(hmac.compare_digest(previous, digest) for digest in digests)
        return current > 0 or (rotated > 0 and is_previous_good)

    def rotated(self, digest: str, until: float) -> Self:
        """The record under a new digest; the one that it had stays good until then."""
        return dataclasses.replace(self, digest=digest, previous_digest=self.digest, previous_until=until)

    def shown(self) -> dict[str, Any]:
        """Everything but the digests."""
        shown = dataclasses.asdict(self)
        for secret in ("digest", "previous_digest"):
            del shown[secret]
        return {"id": shown.pop("kid"), **shown}


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """What applies to all keys of a tenant together. A tenant without a record is enabled and unlimited."""

    tenant: str
    enabled: bool = True
    limits: Limits = NO_LIMITS.key_limits
    model_limits: dict[str, Limits] = field(default_factory=dict)
    is_declared: bool = False

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """As for keys."""
        try:
            record = _TENANTS.validate_json(data)
        except ValidationError:
            raise ValueError("damaged tenant record") from None
        return record  # type: ignore[return-value]  # as above

    def shown(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_KEYS = TypeAdapter(KeyRecord)
_TENANTS = TypeAdapter(TenantRecord)
_NO_DIGEST = "0" * 64

NOBODY = KeyRecord(kid="", digest=_NO_DIGEST, tenant="", name="", enabled=False)
"""Judged in place of a record that does not exist, so that an unknown id takes as long as a known one."""


def policy_of(key: KeyRecord, tenant: TenantRecord) -> Policy:
    return Policy(
        key_limits=key.limits,
        tenant_limits=tenant.limits,
        key_model_limits=key.model_limits,
        tenant_model_limits=tenant.model_limits,
        models=None if key.models is None else frozenset(key.models),
        cache=key.cache,
        priority=key.priority,
        trusted_trace=key.trusted_trace,
        capture_content=key.capture_content,
    )


def record_for(key_text: str, *, pepper: str, tenant: str, name: str) -> KeyRecord:
    """The record to store for a key. Raises `ValueError` when the text is no key."""
    key = ApiKey.parse(key_text)
    if key is None:
        raise ValueError("not a Spillway key")
    digest = digest_of(key_text, pepper)
    return KeyRecord(kid=key.kid, digest=digest, tenant=tenant, name=name, created_at=round(time.time(), 3))
