from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from common.overload.gate import Gate
from common.overload.memory import memory_gauge
from common.overload.shedder import Shedder
from common.telemetry.refusals import Refusals
from support.asgi import Line, http_scope

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send


class App:
    """Reads its body and counts what the shedder sees meanwhile."""

    def __init__(self) -> None:
        self.shedder = Shedder(max_requests=10, max_body_bytes=1_000)
        self.gate = Gate(self, self.shedder, Refusals())
        self.calls = 0
        self.seen = (0, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # ASGI's shape
        self.calls += 1
        if scope["path"] == "/v1/read":
            await receive()
        self.seen = (self.shedder.requests, self.shedder.body_bytes)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(app: App, path: str = "/v1/chat/completions", **headers: str) -> Line:
    line = Line()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await app.gate(http_scope(path, "POST", named), line.receive, line.send)
    return line


async def test_a_refusal_has_the_one_shape_says_when_to_return_and_reaches_nothing_behind_it() -> None:
    app = App()
    app.shedder.observe_memory(0.95)
    line = await ask(app)
    headers = dict(line.sent[0]["headers"])
    assert line.sent[0]["status"] == 503
    assert json.loads(line.body)["error"]["code"] == "overloaded"
    assert headers[b"retry-after"] == b"1"
    assert headers[b"x-spillway-decision"] == b"refused=memory; limit_of=platform"
    assert headers[b"x-request-id"].startswith(b"req_")
    assert int(headers[b"content-length"]) == len(line.body)
    assert b"connection" not in headers
    assert app.calls == 0


async def test_refused_work_of_batch_priority_is_a_429() -> None:
    app = App()
    app.shedder.observe_memory(0.9)
    assert (await ask(app, x_spillway_priority="batch")).sent[0]["status"] == 429
    assert (await ask(app)).sent[0]["status"] == 200


async def test_a_large_refused_body_is_not_read() -> None:
    app = App()
    app.shedder.max_body_bytes = 70_000
    app.shedder.body_bytes = 1
    line = await ask(app, content_length="70000")
    assert line.sent[0]["status"] == 503
    assert dict(line.sent[0]["headers"])[b"connection"] == b"close"


async def test_a_body_that_fits_at_no_time_is_a_413_and_nobody_is_told_to_come_back() -> None:
    app = App()
    line = await ask(app, content_length="1001")
    headers = dict(line.sent[0]["headers"])
    assert (line.sent[0]["status"], json.loads(line.body)["error"]["code"]) == (413, "payload_too_large")
    assert b"retry-after" not in headers
    assert (app.calls, app.shedder.refused) == (0, 0)


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/admin/keys"])
async def test_health_and_admin_always_pass(path: str) -> None:
    app = App()
    app.shedder.observe_memory(1)
    app.shedder.observe_lag(1)
    assert (await ask(app, path)).sent[0]["status"] == 200


async def test_requests_and_their_announced_bodies_are_counted_until_they_are_over() -> None:
    app = App()
    await ask(app, content_length="300")
    assert app.seen == (1, 300)
    assert (app.shedder.requests, app.shedder.body_bytes) == (0, 0)


async def test_a_body_in_chunks_is_counted_as_it_comes() -> None:
    app = App()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 70, "more_body": True}

    await app.gate(http_scope("/v1/read", "POST", {"transfer-encoding": "chunked"}), receive, Line().send)
    assert app.seen == (1, 70)
    assert app.shedder.body_bytes == 0


def test_memory_is_what_the_control_group_holds_without_what_the_kernel_can_take_back(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 400\n")
    gauge = memory_gauge(None, tmp_path)
    assert gauge is not None
    assert gauge() == pytest.approx(0.5)


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit_there_is_nothing_to_measure(tmp_path: Path, limit: str | None) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert memory_gauge(None, tmp_path) is None


def test_a_limit_of_our_own_is_measured_by_the_resident_set() -> None:
    gauge = memory_gauge(2**40)
    assert gauge is not None
    assert 0 < gauge() < 0.1
