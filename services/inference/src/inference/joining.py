"""Joins several embedding requests into one, and splits the one answer again. Pure and synchronous.

Only requests that differ in nothing but their inputs (and `user`, which a joined request has none of) are joined:
strings with strings, arrays of tokens with arrays of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_INPUT_BYTES = 64 * 1024
"""Of one request that is joined with others; a larger one is worth a call of its own."""


class UnsplittableError(Exception):
    """The answer to a joined request does not say, one for one, which vector belongs to which input."""


@dataclass(frozen=True, slots=True)
class Part:
    """One request as a part of a joined one."""

    fields: bytes
    """All that has to be equal: the request without its inputs and its user, and what kind its inputs are of."""
    items: list[Any]
    weight: int
    """Its share of the usage: bytes of text, or tokens."""


def part_of(body: Mapping[str, Any], max_items: int) -> Part | None:
    """Read an embedding request; None when it has to go alone: too large, or of a shape that the upstream may judge."""
    given = body.get("input")
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if not isinstance(items, list) or not 1 <= len(items) < max_items:
        return None
    is_text = isinstance(items[0], str)
    if not all(isinstance(item, str) and item if is_text else _are_tokens(item) for item in items):
        return None
    weight = sum(len(item.encode()) if is_text else len(item) for item in items)
    if weight > MAX_INPUT_BYTES:
        return None
    rest = {name: value for name, value in body.items() if name not in ("input", "user")}
    return Part(orjson.dumps([rest, is_text], option=orjson.OPT_SORT_KEYS), items, weight)


def items_of(body: Mapping[str, Any]) -> int:
    """How many inputs a request has."""
    given = body.get("input")
    return len(given) if isinstance(given, list) and not _are_tokens(given) else 1


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def joined(body: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """One request for the inputs of all parts, in their order. `body` is that of any one of them."""
    rest = {name: value for name, value in body.items() if name != "user"}
    return rest | {"input": [item for part in parts for item in part.items]}


def split(answer: bytes, parts: Sequence[Part]) -> list[bytes]:
    """The answers of the parts, in their order. Raises `UnsplittableError`.

    Usage is shared by weight, in whole tokens that sum exactly to the upstream's.
    """
    whole = _object(answer)
    vectors = _vectors(whole.pop("data", None), sum(len(part.items) for part in parts))
    usages = _usages(whole.pop("usage", None), [part.weight for part in parts])
    answers, start = [], 0
    for part, usage in zip(parts, usages, strict=True):
        mine = vectors[start : start + len(part.items)]
        start += len(part.items)
        data = [vector | {"index": index} for index, vector in enumerate(mine)]
        answers.append(orjson.dumps(whole | {"data": data} | usage))
    return answers


def _object(answer: bytes) -> dict[str, Any]:
    try:
        whole = orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise UnsplittableError from None
    if not isinstance(whole, dict):
        raise UnsplittableError
    return whole


def _vectors(data: object, count: int) -> list[dict[str, Any]]:
    """The vectors in the order of their inputs; the upstream may have sent them in any."""
    if not isinstance(data, list) or len(data) != count or not all(isinstance(vector, dict) for vector in data):
        raise UnsplittableError
    placed: dict[object, dict[str, Any]] = {}
    for vector in data:
        index = vector.get("index")
        if type(index) is not int or index in placed:
            raise UnsplittableError
        placed[index] = vector
    if set(placed) != set(range(count)):
        raise UnsplittableError
    return [placed[index] for index in range(count)]


def _usages(usage: object, weights: Sequence[int]) -> list[dict[str, Any]]:
    if not isinstance(usage, dict):
        return [{} for _ in weights]
    shared = {name: shares(value, weights) for name, value in usage.items() if type(value) is int and value >= 0}
    return [{"usage": {name: amounts[place] for name, amounts in shared.items()}} for place in range(len(weights))]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`, none more than 1 off; they sum to `total`. No weight is 0.

    Source: the largest remainder method (Hamilton).
    """
    sum_ = sum(weights)
    floors = [total * weight // sum_ for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % sum_))
    for place in by_remainder[: total - sum(floors)]:
        floors[place] += 1
    return floors
