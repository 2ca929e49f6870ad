"""JSON lines on standard output, each with the ids of the span in which it was written. No content, no secrets."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import json
import logging
import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace

from common.telemetry.log_storms import Storms

if TYPE_CHECKING:
    from typing import TextIO

MAX_WAITING_LINES = 10_000
WRITE_EVERY_S = 0.02
FLUSH_TIMEOUT_S = 1.0
STORM_CHECK_S = 1.0
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC, RFC 3339), level, service, logger, message, trace_id, span_id, then `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = f"{span.trace_id:032x}"
            line["span_id"] = f"{span.span_id:016x}"
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["exception"] = _without_message(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # a field that is no Unicode, or a number of more than 64 bits
            return json.dumps(line, default=str)


def _without_message(exc_info: Any) -> str:
    """Where an exception came from, innermost first. Messages stay out: they may quote a prompt or a key."""
    kind, _, at = exc_info
    frames = []
    while at is not None:
        frames.append(f"{at.tb_frame.f_globals.get('__name__', '?')}.{at.tb_frame.f_code.co_name}:{at.tb_lineno}")
        at = at.tb_next
    return f"{getattr(kind, '__qualname__', kind)} at {' < '.join(reversed(frames))}"


class Outbox(logging.Handler):
    """Lines on their way to `stream`. A thread writes them, some at a time, so that a reader that stops reading (a full
    pipe) never stops the event loop: beyond 10,000 lines they are dropped, and a line says how many.
    """

    def __init__(self, stream: TextIO, storms: Storms | None = None) -> None:
        super().__init__()
        self._storms = storms
        self._counting = threading.Lock()
        """Of storms. Not the handler's own lock: at exit `logging` holds that while it waits for the writer."""
        self._stream = stream
        self._lines: collections.deque[str] = collections.deque()
        self._dropped = 0
        self._wanted = threading.Event()
        self._written = threading.Event()
        self._is_closing = False
        self._is_writing = False
        self._writer = threading.Thread(target=self._write, name="logs", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._storms is not None:
            with self._counting:
                if not self._storms.admits(record, time.monotonic()):
                    return
        if len(self._lines) >= MAX_WAITING_LINES:
            self._dropped += 1
            return
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  # logging's own rule: a line that cannot be formatted fails no request
            self.handleError(record)
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self) -> None:
        """Wait until what was logged is written, for a second at most."""
        give_up = time.monotonic() + FLUSH_TIMEOUT_S
        while (
            (self._lines or self._is_writing) and self._writer.is_alive() and (rest := give_up - time.monotonic()) > 0
        ):
            self._written.clear()
            self._wanted.set()
            self._written.wait(min(rest, WRITE_EVERY_S))

    def close(self) -> None:
        self._sum_up(math.inf)
        self.flush()
        self._is_closing = True
        self._wanted.set()
        super().close()

    def _write(self) -> None:
        while not self._is_closing:
            is_watching = self._storms is not None and self._storms.is_watching
            self._wanted.wait(STORM_CHECK_S if is_watching else None)
            self._sum_up(time.monotonic())
            time.sleep(WRITE_EVERY_S)  # what comes meanwhile goes with it in one write
            self._wanted.clear()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._say("log_lines_dropped", lines=dropped)
            self._is_writing = True
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            with contextlib.suppress(OSError, ValueError):  # the reader is gone: there is nowhere left to say so
                self._stream.write("".join(lines))
                self._stream.flush()
            self._is_writing = False
            self._written.set()

    def _sum_up(self, now: float) -> None:
        if self._storms is None:
            return
        with self._counting:
            over = list(self._storms.over(now))
        for storm in over:
            self._say("log_lines_held_back", lines=storm.held_back, of=storm.event, by=storm.logger)

    def _say(self, event: str, **fields: object) -> None:
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, event, None, None)
        vars(record).update(fields)
        self._lines.append(self.format(record) + "\n")


def configure(service: str, level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process through one handler, to standard output unless told otherwise; idempotent."""
    handler = Outbox(stream or sys.stdout, Storms())
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(_is_worth_a_line)
    root = logging.getLogger()
    for earlier in root.handlers:
        if isinstance(earlier, Outbox):
            earlier.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx2", "httpcore2", "openai", "aiohttp", "asyncio", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # A stream that ends abnormally on purpose (streams.event_stream) makes uvicorn say so; our own line says why.
    return not (record.name == "uvicorn.error" and record.msg.startswith("ASGI callable returned without completing"))
