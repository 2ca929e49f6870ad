"""The smallest value that a JSON schema accepts, for forced tool calls and structured outputs.

Covers what OpenAI's strict schemas may hold: type, const, enum, properties, items, anyOf, local `$ref`, bounds of
numbers, strings and arrays. What it cannot satisfy it refuses by name; it never returns a value it is unsure of.
Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = Any

_MOST_VALUES = 10_000  # a short schema can demand an exponentially large instance
_LONGEST_STRING = 100_000
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "format", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class UnsatisfiableSchemaError(ValueError):
    """The schema accepts nothing, or only what this module does not know how to build; the message says why."""


def instance(schema: JSON) -> JSON:
    """A minimal value that `schema` accepts. Raises `UnsatisfiableSchemaError`."""
    try:
        return _Builder(schema).build(schema, frozenset())
    except RecursionError:
        raise UnsatisfiableSchemaError("the schema is nested too deeply") from None
    except (TypeError, AttributeError):  # a keyword holds a value of another kind than the standard gives it
        raise UnsatisfiableSchemaError("the schema is malformed") from None


class _Builder:
    def __init__(self, root: JSON) -> None:
        self._root = root
        self._left = _MOST_VALUES

    def build(self, schema: JSON, open_refs: frozenset[str]) -> JSON:
        self._left -= 1
        if self._left < 0:
            raise UnsatisfiableSchemaError(f"the smallest instance has more than {_MOST_VALUES} values")
        if schema is True:
            return None
        if not isinstance(schema, dict):
            raise UnsatisfiableSchemaError("a schema must be an object or true")
        if "const" in schema or "enum" in schema:
            return schema["const"] if "const" in schema else _listed(schema, "enum")[0]
        if "$ref" in schema:
            return self._referred(schema, open_refs)
        if "allOf" in schema:
            return self.build(_merged(schema, "allOf", *_listed(schema, "allOf")), open_refs)
        for alternatives in ("anyOf", "oneOf"):
            if alternatives in schema:
                return self._first(schema, alternatives, open_refs)
        return self._typed(schema, open_refs)

    def _referred(self, schema: dict[str, JSON], open_refs: frozenset[str]) -> JSON:
        ref = schema["$ref"]
        if ref in open_refs:
            raise UnsatisfiableSchemaError(f"{ref} requires itself")
        target = _resolve(self._root, ref)
        return self.build(_merged(schema, "$ref", target) if len(schema) > 1 else target, open_refs | {ref})

    def _first(self, schema: dict[str, JSON], keyword: str, open_refs: frozenset[str]) -> JSON:
        reason = UnsatisfiableSchemaError(f"{keyword} is empty")
        for alternative in _listed(schema, keyword):
            try:
                return self.build(_merged(schema, keyword, alternative), open_refs)
            except UnsatisfiableSchemaError as error:
                reason = error
        raise reason

    def _typed(self, schema: dict[str, JSON], open_refs: frozenset[str]) -> JSON:
        kind = _type(schema)
        if kind == "object":
            return self._object(schema, open_refs)
        if kind == "array":
            return self._array(schema, open_refs)
        if kind not in _SCALARS:
            raise UnsatisfiableSchemaError(f"type {kind!r} is unknown")
        return _SCALARS[kind](schema)

    def _object(self, schema: dict[str, JSON], open_refs: frozenset[str]) -> JSON:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise UnsatisfiableSchemaError("properties must be an object, required an array")
        other = schema.get("additionalProperties", True)
        return {name: self.build(properties.get(name, other), open_refs) for name in required}

    def _array(self, schema: dict[str, JSON], open_refs: frozenset[str]) -> JSON:
        least = schema.get("minItems", 0)
        if not isinstance(least, int) or least > _MOST_VALUES:
            raise UnsatisfiableSchemaError(f"minItems must be a number up to {_MOST_VALUES}")
        first = schema.get("prefixItems", [])
        items = [self.build(item, open_refs) for item in [*first, *[schema.get("items", True)] * least][:least]]
        if schema.get("uniqueItems") and any(item in items[:place] for place, item in enumerate(items)):
            raise UnsatisfiableSchemaError("uniqueItems with several items is not supported")
        return items


def _type(schema: dict[str, JSON]) -> JSON:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        return kind[0]
    if kind is None:
        return next((name for name, words in _IMPLIED.items() if any(word in schema for word in words)), "null")
    return kind


def _string(schema: dict[str, JSON]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if "pattern" in schema:
        raise UnsatisfiableSchemaError("pattern is not supported")
    if not isinstance(least, int) or least > _LONGEST_STRING:
        raise UnsatisfiableSchemaError(f"minLength must be a number up to {_LONGEST_STRING}")
    text = _FORMATS.get(schema.get("format", ""), "").ljust(least, "x")
    if len(text) > most:
        raise UnsatisfiableSchemaError("no string is short enough")
    return text


def _number(schema: dict[str, JSON], *, whole: bool) -> float:
    bounds: dict[str, float] = {
        name: schema[name]
        for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
        if name in schema
    }
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in bounds.values()):
        raise UnsatisfiableSchemaError("the bounds of a number must be numbers")
    low = max(bounds.get("minimum", -math.inf), bounds.get("exclusiveMinimum", -math.inf))
    high = min(bounds.get("maximum", math.inf), bounds.get("exclusiveMaximum", math.inf))
    step = bounds.get("multipleOf", 1)
    nearest = min(max(0, low), high)
    multiples = (nearest // step * step + n * step for n in (0, 1, 2, -1)) if step > 0 else ()
    for number in (0, *multiples, nearest, (low + high) / 2):
        candidate = int(number) if math.isfinite(number) and number == int(number) else number
        if (not whole or isinstance(candidate, int)) and _is_within(candidate, bounds):
            return candidate
    raise UnsatisfiableSchemaError("no number fits the bounds")


def _is_within(number: float, bounds: dict[str, float]) -> bool:
    return (
        math.isfinite(number)
        and bounds.get("minimum", number) <= number <= bounds.get("maximum", number)
        and bounds.get("exclusiveMinimum", -math.inf) < number < bounds.get("exclusiveMaximum", math.inf)
        and ("multipleOf" not in bounds or math.isclose(math.remainder(number, bounds["multipleOf"]), 0, abs_tol=1e-9))
    )


_SCALARS: dict[str, Callable[[dict[str, JSON]], JSON]] = {
    "string": _string,
    "integer": lambda schema: _number(schema, whole=True),
    "number": lambda schema: _number(schema, whole=False),
    "boolean": lambda _: False,
    "null": lambda _: None,
}


def _listed(schema: dict[str, JSON], keyword: str) -> list[JSON]:
    items = schema[keyword]
    if not isinstance(items, list) or not items:
        raise UnsatisfiableSchemaError(f"{keyword} must be an array with something in it")
    return items


def _merged(schema: dict[str, JSON], without: str, *parts: JSON) -> JSON:
    """`schema` with `parts` in the place of one of its keywords."""
    merged = {name: value for name, value in schema.items() if name != without}
    for part in parts:
        if part is True:
            continue
        if not isinstance(part, dict):
            raise UnsatisfiableSchemaError("a schema must be an object or true")
        both = {name: merged[name] for name in ("properties", "required") if name in merged and name in part}
        merged |= part
        if "properties" in both:
            merged["properties"] = both["properties"] | part["properties"]
        if "required" in both:
            merged["required"] = list(dict.fromkeys([*both["required"], *part["required"]]))
    return merged


def _resolve(root: JSON, ref: JSON) -> JSON:
    """Only references into the same document are followed: a simulator fetches nothing."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        raise UnsatisfiableSchemaError(f"$ref {ref!r} is not local")
    target = root
    for part in ref.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or name not in target:
            raise UnsatisfiableSchemaError(f"$ref {ref!r} points nowhere")
        target = target[name]
    return target
