"""What an answer used and cost, as inference reports it to the gateway: a header of a whole answer, and of a stream a
comment line after its last event, which the gateway keeps to itself. It comes also when the answer failed half-way.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Self

import orjson

HEADER = "x-spillway-usage"
_COMMENT = re.compile(rb"^: x-spillway-usage (\{[^\r\n]*\})\r?\n\r?\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one request, all its attempts together."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    """None: nobody told us the price. Never 0 for want of knowing."""
    is_estimated: bool = False
    """The upstream sent no usage (or was cut off before it did): counted from what passed."""

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes | None) -> Self | None:
        """None for what is absent or no usage: the reader then estimates by itself."""
        try:
            fields = orjson.loads(text or b"")
            return cls(
                input_tokens=int(fields["input_tokens"]),
                output_tokens=int(fields["output_tokens"]),
                cost_usd=None if fields["cost_usd"] is None else float(fields["cost_usd"]),
                is_estimated=bool(fields["is_estimated"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def to_comment(self) -> bytes:
        """The event that ends a stream between services; clients of a stream ignore comments anyway (WHATWG 9.2.6)."""
        return f": {HEADER} {self.to_json()}\n\n".encode()


def take_comment(events: bytes) -> tuple[bytes, Usage | None]:
    """Split whole events into those for the client and the usage that inference put among them, if it did."""
    if HEADER.encode() not in events:
        return events, None
    match = _COMMENT.search(events)
    if match is None:
        return events, None
    return events[: match.start()] + events[match.end() :], Usage.from_json(match[1])
