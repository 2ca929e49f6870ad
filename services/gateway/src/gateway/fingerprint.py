"""The name of a cached answer: a keyed hash of everything that could change the answer, the tenant first."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from gateway.strict_json import render_canonical

NEUTRAL = frozenset({"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Fields that never change what a model says. A field that is not listed here changes the fingerprint."""


def fingerprint(secret: bytes, *, tenant: str, endpoint: str, body: dict[str, Any]) -> str:
    """64 hex digits. The parts are length-prefixed, so that no two requests share one by moving a boundary."""
    shaping = {name: value for name, value in body.items() if name not in NEUTRAL}
    mac = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (b"v1", tenant.encode(), endpoint.encode(), render_canonical(shaping)):
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.hexdigest()
