"""Reads a chat stream as it passes: whole events out, and whether the answer was complete. Pure and synchronous.

Only events that carry a finish reason or an error are parsed, so that a chunk costs next to nothing.
"""

from __future__ import annotations

import re

import orjson

MAX_EVENT_BYTES = 1024 * 1024
DONE = b"data: [DONE]\n\n"

_DONE = re.compile(rb"^data: ?\[DONE\]\r?$", re.MULTILINE)
_FIELDS = (b":", b"event:", b"id:", b"retry:")
_BOUNDARY = re.compile(rb"\r?\n\r?\n")
_NOT_JSON = re.compile(rb"^data: ?+(?!\{|\[DONE\])", re.MULTILINE)
_TELLING = re.compile(rb'"finish_reason"\s*:\s*"|"error"\s*:\s*[{"]')


class MalformedStreamError(Exception):
    """The bytes are not server-sent events of JSON, or one event is longer than 1 MiB."""


class ChatStream:
    """Watches one streamed chat completion.

    `feed` returns the bytes of the events that are whole so far, unchanged, and keeps the rest: what a client is sent
    never ends inside an event. It keeps `[DONE]` back as well: clients take it for success, so it is sent by whoever
    has seen that the answer is complete, which it is when each of its choices has named its finish reason.
    """

    __slots__ = ("_finished", "_rest", "_seen_event", "choices", "failed", "is_done")

    def __init__(self, choices: int = 1) -> None:
        self.choices = choices
        self.is_done = False
        """`[DONE]` has passed."""
        self.failed = False
        """An error event has passed."""
        self._finished: set[int] = set()
        self._rest = b""
        self._seen_event = False

    @property
    def is_complete(self) -> bool:
        return not self.failed and self._finished.issuperset(range(self.choices))

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; return the whole events. Raises `MalformedStreamError`. Nothing follows `[DONE]`."""
        if self.is_done:
            return b""
        if self._rest:
            data = self._rest + data
        end = _end_of_last_event(data)
        self._rest = data[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise MalformedStreamError("an event is longer than 1 MiB")
        events = data[:end]
        if b"[DONE]" in events and (done := _DONE.search(events)):
            self.is_done = True
            events = events[: done.start()]
        if events:
            self._read(events)
        return events

    def _read(self, events: bytes) -> None:
        if not self._seen_event:
            self._check_first(events)
        if _NOT_JSON.search(events):
            raise MalformedStreamError("an event is not an object")
        if _TELLING.search(events):
            for event in _BOUNDARY.split(events):
                if _TELLING.search(event):
                    self._judge(event)

    def _check_first(self, events: bytes) -> None:
        for event in _BOUNDARY.split(events):
            payload = data_of(event)
            if payload is None:
                if event.strip() and not event.lstrip().startswith(_FIELDS):
                    raise MalformedStreamError("the stream is not made of events")
                continue  # a comment or a bare field: keeps the connection alive, says nothing
            try:
                orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise MalformedStreamError("the first event is not JSON") from None
            self._seen_event = True
            return

    def _judge(self, event: bytes) -> None:
        payload = data_of(event)
        try:
            chunk = orjson.loads(payload or b"")
        except orjson.JSONDecodeError:
            raise MalformedStreamError("an event is not JSON") from None
        if not isinstance(chunk, dict):
            raise MalformedStreamError("an event is not an object")
        if chunk.get("error"):
            self.failed = True
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                index = choice.get("index", 0)
                if isinstance(index, int):
                    self._finished.add(index)

    @property
    def has_content(self) -> bool:
        """A first event has passed (comments do not count)."""
        return self._seen_event


def data_of(event: bytes) -> bytes | None:
    """The payload of one event, or None when it has none. Source: WHATWG HTML, 9.2.6."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


def _end_of_last_event(data: bytes) -> int:
    end = data.rfind(b"\n\n") + 2
    crlf = data.rfind(b"\r\n\r\n") + 4
    return max(end if end > 1 else 0, crlf if crlf > 3 else 0)  # noqa: PLR2004  # rfind's -1 plus the length
