"""Who an internal call is made for: a short-lived signed token that the platform's services show each other.

HS256 is symmetric, so each audience has its own secret: a service that can check tokens can forge them, but only
for itself. Two secrets are accepted while one is being rotated. Source: RFC 8725 (algorithm and audience are pinned).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jwt

from common.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIFETIME_S = 60
_REUSED_UNTIL_S = 30  # a token is signed anew once less than this is left, so that clocks may differ by as much
_LEEWAY_S = 30
_CACHED = 1_024

Priority = Literal["interactive", "batch"]


@dataclass(frozen=True, slots=True)
class HopIdentity:
    """The tenant and key on whose behalf a service calls another."""

    tenant: str
    key_id: str
    priority: Priority = "interactive"
    captures_content: bool = False
    """The key consents to its messages being in traces, where the deployment wants that as well."""


class HopSigner:
    """Signs tokens for one audience; a token is reused until it is half gone."""

    def __init__(self, secret: str, audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._audience = audience
        self._clock = clock
        self._tokens: dict[HopIdentity, tuple[float, str]] = {}

    def authorization(self, identity: HopIdentity) -> str:
        """The value of an `Authorization` header."""
        now = self._clock()
        expires, header = self._tokens.get(identity, (0.0, ""))
        if expires - now < _REUSED_UNTIL_S:
            expires = now + LIFETIME_S
            claims: dict[str, object] = {
                "aud": self._audience,
                "sub": identity.tenant,
                "kid": identity.key_id,
                "pri": identity.priority,
                "exp": int(expires),
            }
            if identity.captures_content:
                claims["cap"] = True
            header = f"Bearer {jwt.encode(claims, self._secret, algorithm='HS256')}"
            _bound(self._tokens)
            self._tokens[identity] = (expires, header)
        return header


class HopVerifier:
    """Checks tokens of one audience against one or two secrets; a good one is remembered until it expires."""

    def __init__(self, secrets: Sequence[str], audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._secrets = tuple(secrets)
        self._audience = audience
        self._clock = clock
        self._seen: dict[str, tuple[float, HopIdentity]] = {}

    def verify(self, authorization: str | None) -> HopIdentity:
        """Return whom the call is for, or raise `Unauthenticated` (which the gateway turns into a 503: our fault)."""
        header = authorization or ""
        expires, identity = self._seen.get(header, (0.0, None))
        if identity is None or expires < self._clock():
            expires, identity = self._decode(header.removeprefix("Bearer "))
            _bound(self._seen)
            self._seen[header] = (expires, identity)
        return identity

    def _decode(self, token: str) -> tuple[float, HopIdentity]:
        for secret in self._secrets:
            try:
                claims = jwt.decode(
                    token,
                    secret,
                    algorithms=["HS256"],
                    audience=self._audience,
                    options={"require": ["exp", "aud", "sub"], "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidTokenError:
                continue
            expires = float(claims["exp"]) + _LEEWAY_S
            if expires >= self._clock():
                captures = claims.get("cap") is True
                identity = HopIdentity(
                    claims["sub"], claims.get("kid", ""), claims.get("pri", "interactive"), captures_content=captures
                )
                return expires, identity
        raise Unauthenticated("The internal call carried no valid platform token.", code="invalid_hop_token")


def _bound(remembered: dict[str, tuple[float, HopIdentity]] | dict[HopIdentity, tuple[float, str]]) -> None:
    if len(remembered) >= _CACHED:
        remembered.clear()
