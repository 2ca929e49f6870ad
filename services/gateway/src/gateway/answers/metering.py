"""What a call used, from whoever knows best: inference, else the answer's own `usage`, else an estimate of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from common.streams import sse
from common.usage import Usage, take_comment
from gateway.answers.chat_shapes import split
from gateway.limits.estimate import input_tokens

if TYPE_CHECKING:
    from gateway.call import Call

_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class Meter:
    """Watches one call to inference; `settle` is called once, whatever ended the call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._reported: Usage | None = None
        self._told: dict[str, Any] | None = None
        self._events = 0
        self.was_at_work = False
        """A model may have worked on it, whether we have heard of that or not."""

    def sending(self) -> None:
        self.was_at_work = True

    def report(self, text: str | None) -> None:
        """Take the usage that inference reports with a whole answer, or with an error."""
        self._reported = Usage.from_json(text)

    def body(self, body: bytes) -> None:
        if self._reported is None and _USAGE.search(body):
            try:
                answer = orjson.loads(body)
            except orjson.JSONDecodeError:
                return
            self._told = answer.get("usage") if isinstance(answer, dict) else None

    def events(self, events: bytes) -> bytes:
        """Count events as they pass; return them without inference's comment."""
        if events.count(b"usage") == events.count(b'"usage":null'):  # neither a comment nor a chunk that tells it
            self._events += events.count(b"\n\n")
            return events
        events, reported = take_comment(events)
        if reported is not None:
            self._reported = reported
        self._events += events.count(b"\n\n")
        if _USAGE.search(events):
            for event in split(events):
                if _USAGE.search(event):
                    self.body(sse.data_of(event) or b"")
        return events

    def settle(self) -> None:
        """Tell the call's reservation. An error answer that reports nothing used nothing."""
        if self._reported is not None:
            self._call.reservation.usage = self._reported
        elif isinstance(self._told, dict):
            self._call.reservation.usage = Usage(_count(self._told, "prompt"), _count(self._told, "completion"))
        elif self.was_at_work:
            self._call.reservation.usage = Usage(input_tokens(self._call), self._events, is_estimated=True)
            self._call.reservation.is_unheard = not self._call.is_stream


def _count(told: dict[str, Any], of: str) -> int:
    tokens = told.get(f"{of}_tokens")
    return tokens if isinstance(tokens, int) else 0
