"""The name of a cached answer: a keyed hash of everything that could change the answer, the tenant first."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from gateway.strict_json import render_canonical

NEUTRAL = frozenset({"stream", "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key"})
"""Fields that never change what a model says. A field that is not listed here changes the fingerprint."""
MODEL_DIGITS = 16
_EXACT = 2**53
"""Up to here every whole number is a float of its own, so that 1 and 1.0 are the same wish."""


def fingerprint(secret: bytes, *, tenant: str, endpoint: str, body: dict[str, Any], revision: str = "") -> str:
    """64 hex digits: 16 that stand for the model, so that its entries can be purged, and 48 for the whole request.

    The parts are length-prefixed, so that no two requests share a name by moving a boundary. `revision` is that of the
    catalogue, if a change of it shall make earlier answers unknown.
    """
    shaping = {name: value for name, value in body.items() if name not in NEUTRAL}
    parts = (b"v2", tenant.encode(), endpoint.encode(), revision.encode(), _canonical(shaping))
    model = body.get("model")
    return model_digits(secret, model if isinstance(model, str) else "") + _digest(secret, parts)[:-MODEL_DIGITS]


def model_digits(secret: bytes, model: str) -> str:
    """The digits with which the fingerprints of all answers of a model begin, whoever asked."""
    return _digest(secret, (b"model", model.encode()))[:MODEL_DIGITS]


def _digest(secret: bytes, parts: tuple[bytes, ...]) -> str:
    mac = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    rendered = render_canonical(value)
    # A whole number that was written as a float ends in ".0" here; looked for in the bytes, because to walk a long
    # conversation costs more than to write it.
    return render_canonical(_normalised(value)) if b".0" in rendered else rendered


def _normalised(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if isinstance(value, dict):
        return {name: _normalised(item) for name, item in value.items()}
    return [_normalised(item) for item in value] if isinstance(value, list) else value
