"""What may be embedded: one text or many, as text or as tokens. What may not is refused with the bound it broke."""

from __future__ import annotations

from typing import Any

MAX_ITEMS = 2048
MAX_TOKENS = 100_000
"""Of one item; models take less."""


def judged(value: Any) -> Any:
    """The value itself. Raises `ValueError` with what is wrong with it, none of it repeated."""
    if isinstance(value, str):
        _require(value, "an empty string cannot be embedded")
    elif not isinstance(value, list):
        raise ValueError(_SHAPES)  # noqa: TRY004  # pydantic's way to refuse a value
    elif value and type(value[0]) is int:
        _require(_are_tokens(value), f"the items have to be 1 to {MAX_TOKENS} token ids")
    else:
        _require(value, "the array is empty")
        _require(len(value) <= MAX_ITEMS, f"at most {MAX_ITEMS} items are embedded at once, and these are {len(value)}")
        _judge_items(value)
    return value


def _judge_items(items: list[Any]) -> None:
    is_text = isinstance(items[0], str)
    for place, item in enumerate(items):
        if is_text:
            _require(isinstance(item, str) and item, f"item {place} has to be a string that is not empty")
        else:
            _require(isinstance(item, list), _SHAPES)
            _require(_are_tokens(item), f"item {place} has to be an array of 1 to {MAX_TOKENS} token ids")


def _are_tokens(items: list[Any]) -> bool:
    return 0 < len(items) <= MAX_TOKENS and all(type(item) is int for item in items)


def _require(condition: object, why: str) -> None:
    if not condition:
        raise ValueError(why)


_SHAPES = "it has to be a string, an array of strings, an array of token ids, or an array of such arrays"
