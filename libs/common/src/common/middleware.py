"""The outermost room of a request: its ids, its log line, and an answer to what nobody foresaw."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from common import wire
from common.errors import ServiceError
from common.health import PATHS as HEALTH_PATHS
from common.telemetry.http_metrics import route_of
from common.telemetry.timings import HEADER as SERVER_TIMING
from common.telemetry.timings import Timings
from common.telemetry.traces import note_request, trace_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from common.health import Health
    from common.telemetry.http_metrics import ServerMetrics

logger = logging.getLogger("access")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_QUIET = frozenset(HEALTH_PATHS)


class RequestScope:
    """Names the request (`scope["state"]["request_id"]`), answers with its ids and logs it once it is over.

    `arrived_at`, of `time.monotonic`, is when the caller began to wait.

    The edge makes its own id; an inner service takes the one that it is given. With tracing off the edge's answers name
    the digits of that id as their trace's, which nobody has recorded.

    Routes reach four things through `scope["state"]`: `timings`, which the edge shows as `Server-Timing`; `log`, fields
    of the log line; `headers`, which go with whatever answer there is; `ending`, an `AsyncExitStack` unwound when the
    answer is over, whatever ended it. The path is logged without its query: people put keys there. An exception that
    nobody foresaw ends here as a 500 in the one shape; its message goes nowhere, because it may quote a prompt.

    While the service drains, each answer closes its connection (RFC 9112, 9.6), so that clients with a pool move on
    before the server closes anything under a request of theirs.
    """

    def __init__(
        self, app: ASGIApp, *, health: Health, edge: bool = False, metrics: ServerMetrics | None = None
    ) -> None:
        self.app = app
        self._health = health
        self._edge = edge
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = (None if self._edge else _given_id(scope)) or f"req_{uuid4().hex}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived_at"] = time.monotonic()
        state["log"] = {}
        plain_send = state.setdefault("send", send)  # for bodies, to which nothing is added
        state["headers"] = {}
        state["timings"] = Timings()
        ending = state["ending"] = contextlib.AsyncExitStack()
        status = 0
        note_request(request_id)
        current_trace = trace_id() or (request_id.removeprefix("req_") if self._edge else "")

        async def send_with_ids(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = state["status"] = message["status"]
                message["headers"] = [*message["headers"], *self._headers(state, current_trace)]
                await send(message)
            else:
                await plain_send(message)

        if self._metrics is not None:
            self._metrics.active += 1
        try:
            await self.app(scope, receive, send_with_ids)
        except Exception:  # the outermost edge: beyond it only the server's own traceback is left
            logger.exception("unexpected_error", extra={"request_id": request_id})
            if not status:
                await ServiceError("An internal error occurred.").response()(scope, receive, send_with_ids)
        finally:
            try:
                await asyncio.shield(ending.aclose())
            finally:
                self._note(scope, status, time.perf_counter() - started)

    def _headers(self, state: dict[str, Any], current_trace: str) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", state["request_id"].encode()
        if current_trace:
            yield b"x-trace-id", current_trace.encode()
        for name, value in state["headers"].items():
            yield name.encode(), value.encode("latin-1")
        if self._edge:
            yield SERVER_TIMING.encode(), state["timings"].header().encode()
        elif code := state["log"].get("code"):
            yield wire.ERROR.encode(), str(code).encode("latin-1", "replace")
        if self._health.draining:
            yield b"connection", b"close"

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.active -= 1
            self._metrics.record(scope["method"], route_of(scope), status, seconds)
        line = {
            "method": scope["method"],
            "path": scope["path"][:256],
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "request_id": scope["state"]["request_id"],
        }
        logger.info("request", extra=line | scope["state"]["log"])


def _given_id(scope: Scope) -> str | None:
    wanted = wire.REQUEST_ID.encode()
    for name, value in scope["headers"]:
        if name == wanted and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return None
