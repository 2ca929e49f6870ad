"""JSON as strictly as any parser behind us could read it.

Refused: what is not UTF-8, a byte order mark, duplicated keys (another parser would read another model than the one
that we limit, bill and cache), NaN and infinities, numbers beyond 64 bits, lone surrogates, NUL, more than 64 levels.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import orjson

from common.errors import InvalidRequest

MAX_DEPTH = 64
MAX_KEYS = 1_000
"""Of one object."""


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a request body that has to be one object. Raises `InvalidRequest`; its message never quotes the body."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _refusal("is not UTF-8") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_int64
        )
    except json.JSONDecodeError as error:
        raise _refusal(f"is not valid JSON (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _refusal(f"is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise _refusal("is not a JSON object")
    if text.count("[") + text.count("{") > MAX_DEPTH or "\\u0000" in text:
        _inspect(value)
    return value


def render(value: dict[str, Any]) -> bytes:
    """Write what was judged: the next hop reads these bytes, not the caller's. Raises `InvalidRequest`."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise _refusal("holds a lone surrogate or a number that is too large") from None


def render_canonical(value: dict[str, Any]) -> bytes:
    """The same bytes for the same object, whatever the order of its keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _refusal("has a key twice in one object")
    if len(pairs) > MAX_KEYS:
        raise _refusal(f"has more than {MAX_KEYS} keys in one object")
    return result


def _no_constant(_: str) -> NoReturn:
    raise _refusal("holds NaN or an infinity")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _refusal("holds a number that is too large")
    return value


_INT64_DIGITS = 19


def _int64(text: str) -> int:
    if len(text) > _INT64_DIGITS + 1:
        raise _refusal("holds a number that is too large")
    return int(text)


def _inspect(value: Any) -> None:
    """Walk level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item
            if isinstance(item, dict) and any("\x00" in name for name in item):
                raise _refusal("holds a NUL character")
            for child in children:
                if isinstance(child, str):
                    if "\x00" in child:
                        raise _refusal("holds a NUL character")
                elif isinstance(child, dict | list):
                    below.append(child)
        if not below:
            return
        level = below
    raise _refusal(f"is nested deeper than {MAX_DEPTH} levels")


def _refusal(why: str) -> InvalidRequest:
    return InvalidRequest(f"The request body {why}.", code="invalid_json")
