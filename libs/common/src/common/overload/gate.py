"""The outermost door: refuses before anything is read, parsed, traced or logged, in prebuilt bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import wire
from common.errors import BatchOverloaded, Overloaded, PayloadTooLarge, envelope
from common.health import PATHS as HEALTH_PATHS
from common.overload.shedder import REASONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from common.overload.shedder import Reason, Shedder
    from common.telemetry.http_metrics import ServerMetrics
    from common.telemetry.refusals import Refusals

logger = logging.getLogger(__name__)

LAG_SAMPLE_S = 0.05
MEMORY_SAMPLE_S = 1.0
REPORT_S = 10.0
DRAINED_BYTES = 64 * 1024
"""A refused body up to this size is read to its end, so that the connection can be used again."""
_PRIORITY = wire.PRIORITY.encode()
_ALWAYS_OPEN = frozenset(HEALTH_PATHS)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One answer, built once."""

    code: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def _refusal(reason: Reason, *, is_batch: bool) -> Refusal:
    error = BatchOverloaded if is_batch else Overloaded
    body = envelope("The platform is at its capacity; nothing was started.", type_=error.type, code=error.code)
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", error.default_headers["retry-after"].encode()),
        (wire.DECISION.encode(), f"refused={reason}; limit_of=platform".encode()),
    )
    return Refusal(error.code, error.status, headers, body)


def _too_large() -> Refusal:
    """Of a body that fits at no time: to come back would not help."""
    body = envelope("The request body is too large.", type_=PayloadTooLarge.type, code=PayloadTooLarge.code)
    headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    return Refusal(str(PayloadTooLarge.code), PayloadTooLarge.status, headers, body)


_TOO_LARGE = _too_large()
_REFUSALS = {
    (reason, is_batch): _refusal(reason, is_batch=is_batch) for reason in REASONS for is_batch in (False, True)
}


class Gate:
    """Pure ASGI, outside of everything else. Health and `/admin` always pass: they are how an overload is seen to.

    A body counts with its announced length from its head on, else as it comes, until its request is over.
    """

    def __init__(
        self, app: ASGIApp, shedder: Shedder, refusals: Refusals, metrics: ServerMetrics | None = None
    ) -> None:
        self._app = app
        self._shedder = shedder
        self._refusals = refusals
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_always_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        body_bytes, is_batch = _announced(scope["headers"])
        arrived = time.perf_counter()
        refusal = _judge(self._shedder, body_bytes or 0, is_batch=is_batch)
        if refusal is not None:
            self._refusals.count(refusal.code, Overloaded.scope)
            if self._metrics is not None:
                self._metrics.record(scope["method"], "", refusal.status, 0)
            await _refuse(refusal, send, arrived, is_small=(body_bytes or 0) <= DRAINED_BYTES)
            return
        admitted = _Admitted(self._shedder, body_bytes or 0)
        try:
            await self._app(scope, receive if body_bytes is not None else admitted.counted(receive), send)
        finally:
            admitted.forget()


def _judge(shedder: Shedder, body_bytes: int, *, is_batch: bool) -> Refusal | None:
    if shedder.begin_turn():
        asyncio.get_running_loop().call_soon(shedder.end_turn)
    if body_bytes > shedder.max_body_bytes:
        return _TOO_LARGE
    reason = shedder.reason_to_refuse(body_bytes=body_bytes, is_batch=is_batch)
    return None if reason is None else _REFUSALS[reason, is_batch]


def _is_always_open(path: str) -> bool:
    return path in _ALWAYS_OPEN or path.startswith("/admin/")


async def _refuse(refusal: Refusal, send: Send, arrived: float, *, is_small: bool) -> None:
    headers = [*refusal.headers, *_ids()]
    headers.append((b"server-timing", b"total;dur=%.2f" % ((time.perf_counter() - arrived) * 1000)))
    if not is_small:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


def _ids() -> tuple[tuple[bytes, bytes], ...]:
    """Of the request, and of its trace, which nobody records: a refusal costs no span."""
    digits = os.urandom(16).hex().encode()
    return (b"x-request-id", b"req_" + digits), (b"x-trace-id", digits)


def _announced(headers: list[tuple[bytes, bytes]]) -> tuple[int | None, bool]:
    """The body's length, None when it comes in chunks, and whether the work is to be of batch priority."""
    length: int | None = 0
    is_batch = False
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() else 0
        elif name == b"transfer-encoding":
            length = None
        elif name == _PRIORITY:
            is_batch = value == b"batch"
    return length, is_batch


class _Admitted:
    """A request that was let in, as the shedder counts it."""

    __slots__ = ("_bytes", "_shedder")

    def __init__(self, shedder: Shedder, size: int) -> None:
        self._shedder = shedder
        self._bytes = size
        shedder.requests += 1
        shedder.body_bytes += size

    def counted(self, receive: Receive) -> Receive:
        async def counting() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            self._bytes += size
            self._shedder.body_bytes += size
            return message

        return counting

    def forget(self) -> None:
        self._shedder.requests -= 1
        self._shedder.body_bytes -= self._bytes


@contextlib.asynccontextmanager
async def watching(shedder: Shedder, memory: Callable[[], float] | None) -> AsyncIterator[None]:
    """Within a lifespan: feed the shedder, and say in the log, at most every 10 s, how much was refused."""
    watch = asyncio.create_task(_watch(shedder, memory))
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _watch(shedder: Shedder, memory: Callable[[], float] | None) -> None:
    loop = asyncio.get_running_loop()
    memory_due = report_due = loop.time()
    reported = 0
    while True:
        due = loop.time() + LAG_SAMPLE_S
        await asyncio.sleep(LAG_SAMPLE_S)
        now = loop.time()
        shedder.observe_lag(now - due)
        if memory is not None and now >= memory_due:
            memory_due = now + MEMORY_SAMPLE_S
            with contextlib.suppress(OSError, ValueError):
                shedder.observe_memory(memory())
        if now >= report_due and shedder.refused > reported:
            logger.warning("overload_shed", extra={"refused": shedder.refused - reported})
            reported, report_due = shedder.refused, now + REPORT_S
