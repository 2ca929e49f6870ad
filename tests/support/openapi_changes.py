"""What in a newer OpenAPI document would break who was written for an older one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
_WORDS = {"title", "description", "default", "examples", "example", "deprecated"}
_UPPER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_LOWER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_SAME = {"pattern", "format", "multipleOf", "uniqueItems", "propertyNames"}
_KNOWN = {"type", "anyOf", "enum", "const", "properties", "required", "items", "additionalProperties"}
_PLACE = re.compile(r"\{[^}]*\}")
_INFINITE = float("inf")


def breaks(old: Schema, new: Schema) -> list[str]:
    """One line for each path, parameter, field, type or status that went, for what a request needs now or may not hold
    any more, and for what an answer may hold that it could not before. New fields of an answer break nobody.

    Raises `NotImplementedError` for a keyword of JSON Schema that is not read here: what was not read is not approved.
    """
    before, after = _operations(old), _operations(new)
    found = [f"{name} is gone" for name in before if name not in after]
    for name in before.keys() & after.keys():
        found += [f"{name}: {why}" for why in _operation(before[name], after[name])]
    return sorted(found)


def _operations(document: Schema) -> dict[str, Schema]:
    return {
        f"{method.upper()} {_PLACE.sub('{}', path)}": _inlined(operation, document)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in _METHODS
    }


def _inlined(node: Any, document: Schema, within: tuple[str, ...] = ()) -> Any:
    if isinstance(node, list):
        return [_inlined(one, document, within) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" not in node:
        return {name: _inlined(one, document, within) for name, one in node.items()}
    name = node["$ref"].rpartition("/")[2]
    if name in within:
        raise NotImplementedError(f"{name} holds itself")
    return _inlined(document["components"]["schemas"][name], document, (*within, name))


def _operation(old: Schema, new: Schema) -> Iterator[str]:
    before, after = _parameters(old), _parameters(new)
    yield from (f"parameter {name} is gone" for name in before if name not in after)
    for name, parameter in after.items():
        if parameter.get("required") and not before.get(name, {}).get("required"):
            yield f"parameter {name} is required now"
        if name in before:
            yield from _request(before[name].get("schema", {}), parameter.get("schema", {}), f"parameter {name}")
    sent, taken = old.get("requestBody", {}), new.get("requestBody", {})
    if taken.get("required") and not sent.get("required"):
        yield "a body is required now"
    for kind, content in sent.get("content", {}).items():
        if kind in taken.get("content", {}):
            yield from _request(content.get("schema", {}), taken["content"][kind].get("schema", {}), "body")
        else:
            yield f"takes no {kind} any more"
    for status, answer in old["responses"].items():
        if status in new["responses"]:
            yield from _status(answer, new["responses"][status], f"answer {status}")
        else:
            yield f"answers no {status} any more"


def _parameters(operation: Schema) -> dict[str, Schema]:
    """By name; those of the path by their order, because their names are not on the wire."""
    listed = operation.get("parameters", ())
    in_path = [one for one in listed if one.get("in") == "path"]
    named = {one["name"]: one for one in listed if one not in in_path}
    return named | {f"{place} of the path": one for place, one in enumerate(in_path)}


def _status(old: Schema, new: Schema, where: str) -> Iterator[str]:
    contents = new.get("content", {})
    for kind, content in old.get("content", {}).items():
        if kind in contents:
            yield from _answer(content.get("schema", {}), contents[kind].get("schema", {}), where)
        else:
            yield f"{where} is no {kind} any more"


def _request(old: Schema, new: Schema, where: str) -> Iterator[str]:
    yield from _gone(old, new, where)
    yield from (f"{where}{why} is not taken any more" for why in _outside(old, new))


def _answer(old: Schema, new: Schema, where: str) -> Iterator[str]:
    yield from _gone(old, new, where)
    yield from (f"{where}{why} may be what it was not" for why in _outside(new, _open(old)))


def _open(node: Any) -> Any:
    """The schema as its reader takes it: with further fields, which the OpenAI SDKs keep and ours ignore."""
    if isinstance(node, list):
        return [_open(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {name: _open(one) for name, one in node.items() if (name, one) != ("additionalProperties", False)}


def _gone(old: Schema, new: Schema, where: str) -> list[str]:
    return [f"{where}{field} is gone" for field in set(_fields(old)) - set(_fields(new))]


def _fields(schema: Schema) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f".{name}"
        yield from (f".{name}{inner}" for inner in _fields(field))
    for option in schema.get("anyOf", ()):
        yield from _fields(option)
    if "items" in schema:
        yield from (f"[]{inner}" for inner in _fields(schema["items"]))


def _outside(inner: Schema, outer: Schema) -> list[str]:
    """Where `inner` allows what `outer` does not; empty if it is within it."""
    if not outer.keys() - _WORDS:
        return []
    if "anyOf" in inner or "anyOf" in outer:
        options = outer.get("anyOf", [outer])
        return [why for one in inner.get("anyOf", [inner]) for why in min((_outside(one, o) for o in options), key=len)]
    if unknown := (inner.keys() | outer.keys()) - (_WORDS | _UPPER | _LOWER | _SAME | _KNOWN):
        raise NotImplementedError(f"{sorted(unknown)}")
    if not _is_type_within(inner.get("type"), outer.get("type")):
        return [f" (type {inner.get('type')})"]
    found = [f" ({name})" for name in _SAME if name in outer and inner.get(name) != outer[name]]
    found += [f" ({name})" for name in _UPPER if name in outer and inner.get(name, _INFINITE) > outer[name]]
    found += [f" ({name})" for name in _LOWER if name in outer and inner.get(name, -_INFINITE) < outer[name]]
    return found + _values_outside(inner, outer) + _parts_outside(inner, outer)


def _is_type_within(inner: str | None, outer: str | None) -> bool:
    return outer is None or inner == outer or (inner, outer) == ("integer", "number")


def _values_outside(inner: Schema, outer: Schema) -> list[str]:
    mine, theirs = ([side["const"]] if "const" in side else side.get("enum") for side in (inner, outer))
    if theirs is None:
        return []
    return [" (any value)"] if mine is None else [f" ({value!r})" for value in mine if value not in theirs]


def _parts_outside(inner: Schema, outer: Schema) -> list[str]:
    found = [f".{name} (absent)" for name in outer.get("required", ()) if name not in inner.get("required", ())]
    fields = outer.get("properties", {})
    others = outer.get("additionalProperties", True)
    for name, field in inner.get("properties", {}).items():
        if name in fields:
            found += [f".{name}{why}" for why in _outside(field, fields[name])]
        elif others is False:
            found.append(f".{name}")
        elif isinstance(others, dict):
            found += [f".{name}{why}" for why in _outside(field, others)]
    mine = inner.get("additionalProperties", True)
    if others is False and mine is not False and inner.get("type") == "object":
        found.append(" (further fields)")
    elif isinstance(others, dict) and mine is not False:
        found += [f".*{why}" for why in _outside(mine if isinstance(mine, dict) else {}, others)]
    if "items" in outer:
        found += [f"[]{why}" for why in _outside(inner.get("items", {}), outer["items"])]
    return found
