"""Reads a chat stream as it passes: whole events out, whether the answer was complete, and what it used.

Pure and synchronous. An ordinary chunk costs a few searches for bytes; only events that say more than a token (a
finish reason, usage, an error, a first event) are parsed. The searches rely on JSON: inside of a string a quote is
escaped and a line never ends, so `"usage"` and a `data:` at the start of a line are what they look like.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

import orjson

MAX_EVENT_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 8 * 1024 * 1024
"""Of an upstream's stream."""
DONE = b"data: [DONE]\n\n"

_DONE = re.compile(rb"^data: ?\[DONE\]\r?$", re.MULTILINE)
_FIELDS = (b":", b"event:", b"id:", b"retry:")
_BOUNDARY = re.compile(rb"(\r?\n\r?\n)")
_NOT_JSON = re.compile(rb"^data: ?+(?!\{|\[DONE\])", re.MULTILINE)
_TELLING = re.compile(rb'"finish_reason"\s*:\s*"|"error"\s*:\s*[{"]|"usage"\s*:\s*\{')
_NO_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')


class MalformedStreamError(Exception):
    """The bytes are not server-sent events of JSON."""


class StreamTooLargeError(MalformedStreamError):
    """One event is longer than 1 MiB, or the whole longer than its cap."""


class ChatStream:
    """Watches one streamed chat completion.

    `feed` returns the bytes of the events that are whole so far, unchanged, and keeps the rest: what a client is sent
    never ends inside an event. It keeps `[DONE]` back as well: clients take it for success, so it is sent by whoever
    has seen that the answer is complete, which it is when each of its choices has named its finish reason.

    With `hides_usage` the stream looks as if usage had not been asked for: without the usage chunk (that of no choices
    at the end) and without `"usage": null` in the others. Usage beside choices stays: such an upstream always sends it.
    """

    __slots__ = (
        "_finished",
        "_max_bytes",
        "_rest",
        "_seen_event",
        "choices",
        "content_events",
        "failed",
        "finish_reasons",
        "hides_usage",
        "is_done",
        "received_bytes",
        "response_id",
        "response_model",
        "usage",
    )

    def __init__(
        self, choices: int = 1, *, hides_usage: bool = False, max_bytes: int = MAX_STREAM_BYTES + MAX_EVENT_BYTES
    ) -> None:
        # The default is for a stream that inference has bounded already, and put its own comments into.
        self.choices = choices
        self.hides_usage = hides_usage
        self.is_done = False
        """`[DONE]` has passed."""
        self.failed = False
        """An error event has passed."""
        self.content_events = 0
        """Events with data, `[DONE]` aside: about one a token. Comments and bare fields are none."""
        self.received_bytes = 0
        self.usage: dict[str, Any] | None = None
        """The last usage object that passed, hidden or not."""
        self.finish_reasons: list[str] = []
        self.response_id: str | None = None
        self.response_model: str | None = None
        self._finished: set[int] = set()
        self._max_bytes = max_bytes
        self._rest = b""
        self._seen_event = False

    @property
    def is_complete(self) -> bool:
        return not self.failed and self._finished.issuperset(range(self.choices))

    @property
    def has_content(self) -> bool:
        """A first event has passed (comments do not count)."""
        return self._seen_event

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; return the whole events. Raises `MalformedStreamError`. Nothing follows `[DONE]`."""
        if self.is_done:
            return b""
        self.received_bytes += len(data)
        if self.received_bytes > self._max_bytes:
            raise StreamTooLargeError("the stream is longer than its cap")
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            end = _end_of_last_event(data)
            self._rest = data[end:]
            if len(self._rest) > MAX_EVENT_BYTES:
                raise StreamTooLargeError("an event is longer than 1 MiB")
            data = data[:end]
        if b"[DONE]" in data and (done := _DONE.search(data)):
            self.is_done = True
            data = data[: done.start()]
        return self._read(data) if data else data

    def _read(self, events: bytes) -> bytes:
        if not self._seen_event:
            self._check_first(events)
        payloads = _data_lines(events, b"data:")
        if payloads != _data_lines(events, b"data: {") and _NOT_JSON.search(events):
            raise MalformedStreamError("an event is not an object")
        self.content_events += payloads
        usages = events.count(b'"usage"')
        if usages and self.hides_usage:
            events = events.replace(b',"usage":null', b"")
            if usages := events.count(b'"usage"'):
                events = _NO_USAGE.sub(b"", events)
        if (
            events.count(b'"finish_reason"') != events.count(b'"finish_reason":null')
            or (usages and usages != events.count(b'"usage":null'))
            or b'"error"' in events
        ):
            return self._judge_all(events)
        return events

    def _judge_all(self, events: bytes) -> bytes:
        """Parse those events that may say more than a token; return the bytes without those that are hidden."""
        if not _TELLING.search(events):
            return events
        kept = []
        for event in split(events):
            if not _TELLING.search(event) or self._is_shown(self._judge(event)):
                kept.append(event)
            else:
                self.content_events -= 1
        return b"".join(kept)

    def _is_shown(self, chunk: dict[str, Any]) -> bool:
        return not (self.hides_usage and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict))

    def _check_first(self, events: bytes) -> None:
        for event in split(events):
            payload = data_of(event)
            if payload is None:
                if event.strip() and not event.lstrip().startswith(_FIELDS):
                    raise MalformedStreamError("the stream is not made of events")
                continue  # a comment or a bare field: keeps the connection alive, says nothing
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise MalformedStreamError("the first event is not JSON") from None
            if isinstance(chunk, dict):
                self.response_id = _text(chunk.get("id"))
                self.response_model = _text(chunk.get("model"))
            self._seen_event = True
            return

    def _judge(self, event: bytes) -> dict[str, Any]:
        payload = data_of(event)
        try:
            chunk = orjson.loads(payload or b"")
        except orjson.JSONDecodeError:
            raise MalformedStreamError("an event is not JSON") from None
        if not isinstance(chunk, dict):
            raise MalformedStreamError("an event is not an object")
        if chunk.get("error"):
            self.failed = True
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and (reason := choice.get("finish_reason")):
                index = choice.get("index", 0)
                if isinstance(index, int):
                    self._finished.add(index)
                if isinstance(reason, str) and len(self.finish_reasons) < self.choices:
                    self.finish_reasons.append(reason)
        return chunk


def data_of(event: bytes) -> bytes | None:
    """The payload of one event, or None when it has none. Source: WHATWG HTML, 9.2.6."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


def split(events: bytes) -> list[bytes]:
    """The events, each with the blank line behind it."""
    if b"\r" in events:
        parts = _BOUNDARY.split(events)
        return [event + blank for event, blank in zip_longest(parts[::2], parts[1::2], fillvalue=b"")]
    *whole, rest = events.split(b"\n\n")
    found = [event + b"\n\n" for event in whole]
    return [*found, rest] if rest else found


def _data_lines(events: bytes, start: bytes) -> int:
    """How many lines begin with `start`."""
    return events.count(b"\n" + start) + events.startswith(start)


def _text(value: object) -> str | None:
    return value[:256] if isinstance(value, str) else None


def _end_of_last_event(data: bytes) -> int:
    end = data.rfind(b"\n\n") + 2
    crlf = data.rfind(b"\r\n\r\n") + 4
    return max(end if end > 1 else 0, crlf if crlf > 3 else 0)  # noqa: PLR2004  # rfind's -1 plus the length
