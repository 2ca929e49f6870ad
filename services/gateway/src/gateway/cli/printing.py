"""What people read: aligned tables, and records as a line for each field. Times are ISO 8601 in UTC."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NOTHING = "-"


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> str:
    """Aligned columns under their names, numbers to the right; `empty` if there are no rows."""
    cells = [[text(name, row.get(name)) for name in columns] for row in rows]
    if not cells:
        return empty
    lines = [list(columns), *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    is_number = [all(_is_number(line[place]) for line in cells) for place in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in lines
    )


def record(found: Mapping[str, Any]) -> str:
    width = max((len(name) for name in found), default=0)
    return "\n".join(f"{name:{width}}  {text(name, value)}" for name, value in found.items())


def text(name: str, value: Any) -> str:
    """One field, on one line whatever is in it."""
    if value is None:
        return "all" if name == "models" else _NOTHING
    if isinstance(value, int | float) and _is_moment(name):
        return _iso(value)
    match value:
        case float():
            shown = f"{value:.6f}".rstrip("0").rstrip(".")
        case bool() | int():
            shown = str(value).lower()
        case dict():
            shown = _pairs(value)
        case list():
            shown = ",".join(text("", item) for item in value) or _NOTHING
        case _:
            shown = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return shown


def _pairs(fields: Mapping[str, Any]) -> str:
    """`requests_per_minute=60`: what is set of limits; with a model's name before, of limits for each model."""
    if fields.get("mode") == "enforce":  # as always
        fields = {name: value for name, value in fields.items() if name != "mode"}
    shown = (
        f"{text('', name)}: {_pairs(value)};" if isinstance(value, dict) else f"{text('', name)}={text(name, value)}"
        for name, value in fields.items()
        if value is not None
    )
    return " ".join(shown).removesuffix(";") or _NOTHING


def _is_moment(name: str) -> bool:
    return name in ("at", "previous_until") or name.endswith("_at")


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_number(cell: str) -> bool:
    return cell == _NOTHING or cell.replace(".", "", 1).isdecimal()
