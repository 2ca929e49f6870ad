from __future__ import annotations

import io
import json
import logging
import threading

from common.telemetry import logs
from common.telemetry.log_storms import MOST_A_SECOND, Storms


def record(event: str = "store_unavailable", line: int = 1, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("gateway.x", level, "x.py", line, event, None, None)


def test_a_storm_is_held_back_and_summed_up_once() -> None:
    storms = Storms()
    assert [storms.admits(record(), 0.5) for _ in range(1_000)] == [True] * MOST_A_SECOND + [False] * 980
    assert list(storms.over(1.4)) == []
    (storm,) = storms.over(1.5)
    assert (storm.logger, storm.event, storm.held_back) == ("gateway.x", "store_unavailable", 980)
    assert list(storms.over(9)) == []
    assert not storms.is_watching
    assert storms.admits(record(), 1.6)


def test_a_storm_of_one_event_hides_no_other() -> None:
    storms = Storms()
    for _ in range(1_000):
        storms.admits(record(line=1), 0)
    assert storms.admits(record("another", line=2), 0)


def test_the_lines_of_requests_are_all_written() -> None:
    storms = Storms()
    assert all(storms.admits(record("request", level=logging.INFO), 0) for _ in range(1_000))
    assert not storms.is_watching


def test_an_event_below_its_share_is_not_summed_up() -> None:
    storms = Storms()
    for _ in range(MOST_A_SECOND):
        storms.admits(record(), 0)
    assert list(storms.over(2)) == []


def test_the_log_says_how_many_lines_of_what_it_held_back() -> None:
    written = io.StringIO()
    outbox = logs.Outbox(written, Storms())
    outbox.setFormatter(logs.JsonFormatter("gateway"))
    for number in range(100):
        outbox.handle(logging.LogRecord("gateway.x", logging.ERROR, "x.py", 1, "failed", None, None))
        outbox.handle(logging.LogRecord("access", logging.INFO, "y.py", 1, f"request {number}", None, None))
    outbox.close()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    held_back = [(one["lines"], one["of"], one["by"]) for one in lines if one["message"] == "log_lines_held_back"]
    assert sum(lines for lines, *_ in held_back) == 100 - sum(one["message"] == "failed" for one in lines)
    assert {rest for _, *rest_ in held_back for rest in [tuple(rest_)]} == {("failed", "gateway.x")}
    assert sum(one["message"].startswith("request") for one in lines) == 100


class Heard(io.StringIO):
    """Says when a summary was written."""

    def __init__(self) -> None:
        super().__init__()
        self.summary = threading.Event()

    def write(self, text: str) -> int:
        if "log_lines_held_back" in text:
            self.summary.set()
        return super().write(text)


def test_the_log_says_so_although_nothing_more_is_logged() -> None:
    written = Heard()
    outbox = logs.Outbox(written, Storms())
    outbox.setFormatter(logs.JsonFormatter("gateway"))
    for _ in range(100):
        outbox.handle(record())
    assert written.summary.wait(20)
    outbox.close()
