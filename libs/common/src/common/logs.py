"""JSON lines on standard output, each with the ids of the span in which it was written. No content, no secrets."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Any

import orjson
from opentelemetry import trace

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


def configure(service: str, level: str) -> None:
    """Send every logger of the process through one handler; idempotent."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(_is_worth_a_line)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx2", "httpcore2", "openai", "aiohttp", "asyncio", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # A stream that ends abnormally on purpose (common.event_stream) makes uvicorn say so; our own line says why.
    return not (record.name == "uvicorn.error" and record.msg.startswith("ASGI callable returned without completing"))
