"""The decision record: what the gateway decided about one request, and why. One account, shown three times: as the
header `x-spillway-decision`, as attributes of the server span, as fields of the log line.
"""

from __future__ import annotations

HEADER = "x-spillway-decision"


class Decision:
    """Short `key=value` pairs in the order in which they were decided; a later value of a key replaces the earlier."""

    __slots__ = ("facts",)

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}

    def note(self, key: str, value: object) -> None:
        """`key` and `value` are words of ours: nothing that a caller sent."""
        self.facts[key] = str(value)

    def header(self) -> str:
        return "; ".join(f"{key}={value}" for key, value in self.facts.items())
