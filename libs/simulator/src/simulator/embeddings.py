"""Deterministic embeddings: unit vectors that depend on the input alone; other inputs are far apart."""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from simulator import directive, tokens
from simulator.answers import FINGERPRINT
from simulator.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_INPUTS = 2_048
_MOST_DIMENSIONS = 4_096


@dataclass(slots=True)
class EmbeddingsRequest:
    inputs: list[bytes]
    """What is hashed for each vector."""
    prompt_tokens: int
    script: str
    """The first input that holds a directive, wherever it is: one request may be several that somebody has joined."""
    dimensions: int
    is_base64: bool


def read(body: Mapping[str, Any], default_dimensions: int) -> EmbeddingsRequest:
    """Check a request body, the model's name aside. Raises `InvalidRequest` that names the field."""
    inputs = _inputs(body.get("input"))
    dimensions = body.get("dimensions")
    if dimensions is None:
        dimensions = default_dimensions
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise InvalidRequest(f"'dimensions' must be an integer from 1 to {_MOST_DIMENSIONS}.", "dimensions")
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise InvalidRequest("'encoding_format' must be float or base64.", "encoding_format")
    return EmbeddingsRequest(
        inputs=[item.encode() if isinstance(item, str) else orjson.dumps(item) for item in inputs],
        prompt_tokens=sum(tokens.count(item) if isinstance(item, str) else len(item) for item in inputs),
        script=next((item for item in inputs if isinstance(item, str) and directive.is_in(item)), ""),
        dimensions=dimensions,
        is_base64=encoding == "base64",
    )


def body(request: EmbeddingsRequest, model: str, *, has_usage: bool = True) -> bytes:
    vectors = [vector(item, request.dimensions) for item in request.inputs]
    usage = {"prompt_tokens": request.prompt_tokens, "total_tokens": request.prompt_tokens}
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _base64(floats) if request.is_base64 else floats.tolist(),
                }
                for index, floats in enumerate(vectors)
            ],
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        | ({"usage": usage} if has_usage else {})
    )


def vector(item: bytes, dimensions: int) -> array[float]:
    """32-bit floats of length one."""
    # Odd numbers only: they are never zero, so neither is the vector, however short.
    numbers = [2 * number + 1 for number in array("h", hashlib.shake_128(item).digest(2 * dimensions))]
    norm = math.hypot(*numbers)
    return array("f", [number / norm for number in numbers])


def _inputs(value: Any) -> list[str] | list[list[int]]:
    """A string, strings, tokens or lists of tokens, as a list of strings or of lists of tokens."""
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_INPUTS:
        raise InvalidRequest(f"'input' must be a string or an array of 1 to {_MOST_INPUTS} items, none empty.", "input")
    if _are_tokens(value):
        return [value]
    for place, item in enumerate(value):
        is_like_the_first = isinstance(item, str) == isinstance(value[0], str)
        if not is_like_the_first or not ((isinstance(item, str) and item) or _are_tokens(item)):
            raise InvalidRequest("An input must be a string or an array of tokens, and not empty.", f"input[{place}]")
    return value


def _are_tokens(item: Any) -> bool:
    return isinstance(item, list) and len(item) > 0 and all(type(token) is int and token >= 0 for token in item)


def _base64(floats: array[float]) -> str:
    if sys.byteorder == "big":  # the wire is little-endian
        floats = array("f", floats)
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
