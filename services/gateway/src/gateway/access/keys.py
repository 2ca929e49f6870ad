"""API keys: their format, what is stored of them, and what one may do.

`sw_<environment>_<kid>_<secret><checksum>`: a scannable prefix, a public id, 256 random bits and a CRC-32, so that a
mistyped key is refused without any I/O. Stored is an HMAC-SHA256 under a pepper that lives elsewhere.
"""

from __future__ import annotations

import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.identity import Priority

_SHAPE = re.compile(
    r"sw_(?P<environment>[a-z]{2,8})_(?P<kid>[0-9a-f]{16})_(?P<secret>[0-9a-f]{64})(?P<crc>[0-9a-f]{8})"
)
_LONGEST = 128


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key whose shape and checksum are right; whether it is known is another question."""

    text: str
    kid: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the key, or None for anything that cannot be one: no store is asked about it."""
        match = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None or not hmac.compare_digest(match["crc"], _checksum(text[:-8])):
            return None
        return cls(text, match["kid"])

    def __repr__(self) -> str:
        return f"ApiKey(kid={self.kid!r})"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key, a tenant, or either of them with one model may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    budget_usd_per_day: float | None = None
    budget_usd_per_month: float | None = None
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow`: computed and reported, never refused."""


CachePolicy = Literal["all", "deterministic", "off"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a key may do, once its tenant's record has been taken into account."""

    key_limits: Limits = Limits()
    tenant_limits: Limits = Limits()
    key_model_limits: Mapping[str, Limits] = field(default_factory=dict)
    tenant_model_limits: Mapping[str, Limits] = field(default_factory=dict)
    models: frozenset[str] | None = None
    """None: every model of the catalogue."""
    cache: CachePolicy = "all"
    priority: Priority = "interactive"
    """The highest that its calls may have."""
    trusted_trace: bool = False
    """A trace that its callers bring goes on here; else it is linked."""
    capture_content: bool = False
    """Its messages may be in traces."""


NO_LIMITS = Policy()


def generate_key(environment: str, kid: str | None = None) -> ApiKey:
    """Make a new key, or another one of the same id. Its text is shown once and stored nowhere."""
    kid = kid or secrets.token_hex(8)
    body = f"sw_{environment}_{kid}_{secrets.token_hex(32)}"
    return ApiKey(body + _checksum(body), kid)


def digest_of(key_text: str, pepper: str) -> str:
    return hmac.digest(pepper.encode(), key_text.encode(), "sha256").hex()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
