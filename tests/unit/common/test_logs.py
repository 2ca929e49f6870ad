from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common.telemetry import logs
from common.telemetry.logs import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a prompt that nobody may see"


def line(message: str = "request", **attributes: Any) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {"name": "access", "levelno": logging.INFO, "levelname": "INFO", "msg": message} | attributes
    )
    text = JsonFormatter("gateway").format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def fail_with(error: Exception) -> None:
    raise error


def exc_info_of(error: Exception) -> Any:
    try:
        fail_with(error)
    except Exception:  # noqa: BLE001  # whatever the test gave
        return sys.exc_info()


def test_a_record_is_one_json_object_with_its_extra_fields() -> None:
    found = line(created=1_700_000_000.25, status=200, tenant="alice")
    assert found == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "info",
        "service": "gateway",
        "logger": "access",
        "message": "request",
        "status": 200,
        "tenant": "alice",
    }


def test_a_line_break_in_a_message_makes_no_second_line() -> None:
    assert line("first\nsecond")["message"] == "first\nsecond"


def test_the_message_of_an_exception_is_never_logged_but_its_place_is() -> None:
    found = line(levelname="ERROR", exc_info=exc_info_of(ValueError(SECRET)))
    assert SECRET not in json.dumps(found)
    assert found["exception"].startswith("ValueError at ")
    assert "fail_with" in found["exception"]


def test_the_message_of_an_exceptions_cause_is_not_logged_either() -> None:
    error = RuntimeError("outer")
    error.__cause__ = ValueError(SECRET)
    assert SECRET not in json.dumps(line(exc_info=exc_info_of(error)))


def test_a_line_names_the_span_in_which_it_was_written() -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        found = line()
    assert (found["trace_id"], found["span_id"]) == ("0" * 29 + "abc", "0" * 13 + "def")
    assert "trace_id" not in line()


@pytest.mark.parametrize("value", [2**70, "\ud800", {1: "not a string"}, object(), b"bytes"])
def test_no_field_is_so_odd_that_the_line_is_lost(value: object) -> None:
    found = line(odd=value)
    assert "odd" in found
    assert found["message"] == "request"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger; whatever a test does to it and to the noisy ones is undone."""
    root = logging.getLogger()
    touched = [root, *(logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "openai"))]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in touched]
    yield root
    for handler in root.handlers:
        if isinstance(handler, logs.Outbox):
            handler.close()
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def test_configuring_twice_writes_each_line_once(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("cache", "info")
    logs.configure("cache", "warning")
    logging.getLogger("x").info("too quiet")
    logging.getLogger("x").warning("loud")
    logging.getLogger("uvicorn.error").warning("of the server")
    root_logger.handlers[0].flush()
    assert [json.loads(text)["message"] for text in capsys.readouterr().out.splitlines()] == ["loud", "of the server"]
    assert len(root_logger.handlers) == 1


@pytest.mark.usefixtures("root_logger")
def test_a_stream_ended_on_purpose_makes_the_server_log_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("cache", "info")
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing response.")
    logging.getLogger().handlers[0].flush()
    assert capsys.readouterr().out == ""


def test_a_reader_that_stops_reading_stops_nobody_and_is_told_what_it_missed() -> None:
    reading, writing = os.pipe()
    outbox = logs.Outbox(os.fdopen(writing, "w"))
    outbox.setFormatter(logs.JsonFormatter("gateway"))
    logged = logs.MAX_WAITING_LINES + 5_000
    for _ in range(logged):  # the pipe holds 64 KiB, a few hundred lines
        outbox.emit(logging.makeLogRecord({"msg": "request", "levelname": "INFO"}))
    with os.fdopen(reading) as pipe:
        read = 0
        for text in pipe:
            found = json.loads(text)
            if found["message"] == "log_lines_dropped":
                assert read + found["lines"] == logged
                break
            read += 1
        outbox._stream.close()
    outbox.close()
    assert logs.MAX_WAITING_LINES <= read < logged
