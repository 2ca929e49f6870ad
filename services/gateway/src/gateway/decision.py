"""The decision record: what the gateway decided about one request, and why. One account, shown three times: as the
header `x-spillway-decision`, as attributes of the server span, as fields of the log line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from common import wire
from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from common.errors import ServiceError

HEADER = wire.DECISION
_TOLD = {"model": wire.MODEL, "target": wire.TARGET, "attempts": wire.ATTEMPTS}
_TOO_MANY_REQUESTS = 429


class Decision:
    """Short `key=value` pairs in the order in which they were decided; a later value of a key replaces the earlier.

    What is decided after an answer's head has gone is only in the span and the log line. `headers` go with whatever
    answer there will be.
    """

    __slots__ = ("_headers", "facts")

    def __init__(self, headers: MutableMapping[str, str] | None = None) -> None:
        self._headers = headers
        self.facts: dict[str, str] = {}

    def note(self, key: str, value: object) -> None:
        """`key` and `value` are words of ours: nothing that a caller sent."""
        self.facts[key] = str(value)
        if self._headers is not None:
            self._headers[HEADER] = self.header()

    def note_answer(self, status: int, headers: Mapping[str, str]) -> None:
        """What a model's answer says of how it came about."""
        if status == _TOO_MANY_REQUESTS:
            self.facts.setdefault("refused", "upstream")  # whoever refuses here has said so already
        self._note_told(headers)
        self.note("status", status)

    def note_error(self, error: ServiceError) -> None:
        self._note_told(error.headers)
        self.note("status", error.status)
        self.note("outcome", error.own_code)

    def _note_told(self, headers: Mapping[str, str]) -> None:
        for key, header in _TOLD.items():
            if header in headers:
                self.note(key, headers[header])

    def header(self) -> str:
        return "; ".join(f"{key}={value}" for key, value in self.facts.items())

    def record(self, log: MutableMapping[str, Any]) -> None:
        """Write the account into the log line's fields and onto the current span; once, at the request's end."""
        if self.facts:
            log["decision"] = self.facts
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes({conventions.DECISION + key: value for key, value in self.facts.items()})


def note_error(state: MutableMapping[str, Any], error: ServiceError) -> None:
    """Every error answer has an account, also of a request that ended before anything else was decided about it."""
    decision: Decision = state.get("decision") or Decision(state["headers"])
    decision.note_error(error)
