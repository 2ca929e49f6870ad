"""A lean load generator: `python load.py < order.json` prints what it saw as JSON. Imports nothing of ours.

Closed loop: each of `connections` sends its next request when the last was answered. Open loop (`rate`): requests are
sent at their moments (a Poisson process) whatever became of the others, and latencies count from the moment that was
*intended*, so that a server that stalls cannot slow the questioner down. Source: Gil Tene, "coordinated omission".
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

_END_OF_CHUNKS = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Order:
    """What to send and what to expect; anything else than the expected answer counts as an error."""

    port: int
    path: str
    key: str
    model: str
    prompt: str
    """`{}` in it becomes the request's number, divided by `shared`."""
    shared: int
    is_stream: bool
    requests: int
    connections: int
    rate: float | None
    """Requests a second, open loop; None: closed loop."""
    cache: str | None
    """The expected `x-cache`."""
    events: int
    """The least number of `data:` events of a stream, `[DONE]` included."""
    refusals: tuple[str, ...] = ()
    """Statuses that are no errors but refusals, which have a latency of their own; those but 401 with `Retry-After`."""
    after_refusal_s: float = 0.1
    """A closed loop's pause, or it would measure refusals."""
    timeout_s: float = 60
    """Of one attempt; then the client hangs up."""
    retries: int = 0
    """After an error or a refusal, as an SDK does it: 0.5 s later, then twice as much, half of it by chance."""
    counts_from_s: float = 0
    """What an open loop asks for earlier is sent and not told of."""

    def request(self, number: int) -> bytes:
        content = self.prompt.replace("{}", str((number - 1) // self.shared))
        asks = {"input": content} if self.path.endswith("embeddings") else {"messages": [_message(content)]}
        body: dict[str, Any] = {"model": self.model, **asks}
        payload = json.dumps(body | {"stream": True} if self.is_stream else body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload


def _message(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


class _BadAnswerError(Exception):
    """The message is a word for the count of errors."""


class Connection(asyncio.Protocol):
    """One request at a time over one connection."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's classes

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's shape
        self.transport = None
        self._fail("connection_lost")

    async def ask(self, request: bytes) -> float:
        """Return the moment of the first body byte. Raises `_BadAnswerError`."""
        if self.transport is None:
            raise _BadAnswerError("connection_lost")
        self._answer = asyncio.get_running_loop().create_future()
        self._head, self._tail, self._body_bytes, self._events, self._first_at = b"", b"", 0, 0, 0.0
        self.is_refused = self.is_last = False
        self._length: int | None = None
        self.transport.write(request)
        try:
            async with asyncio.timeout(self._order.timeout_s):
                return await self._answer
        except TimeoutError:
            self.transport.abort()
            raise _BadAnswerError("no_answer") from None

    def data_received(self, data: bytes) -> None:
        if not self._first_at:
            data = self._head + data
            head, found, data = data.partition(b"\r\n\r\n")
            if not found or not self._read_head(head):
                self._head = head
                return
            if not data:
                self._head = head + found
                return
            self._first_at = time.perf_counter()
        self._body_bytes += len(data)
        self._events += data.count(b"data: ")
        if self._length is None:
            self._tail = (self._tail + data)[-len(_END_OF_CHUNKS) :]
            if self._tail == _END_OF_CHUNKS:
                self._end()
        elif self._body_bytes >= self._length:
            self._end()

    def _read_head(self, head: bytes) -> bool:
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        status = lines[0].split(b" ", 2)[1].decode()
        cache = headers.get(b"x-cache", b"none").decode()
        self.is_last = headers.get(b"connection") == b"close"
        if status in self._order.refusals and (status == "401" or b"retry-after" in headers):
            self.is_refused = True
        elif status != "200" or (self._order.cache and cache != self._order.cache):
            self._fail(f"status_{status}" if status != "200" else f"cache_{cache}")
            return False
        self._length = int(headers[b"content-length"]) if b"content-length" in headers else None
        return True

    def _end(self) -> None:
        if self._events < self._order.events and not self.is_refused:
            self._fail("short_stream")
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(self._first_at)

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_BadAnswerError(why))


@dataclass
class Load:
    order: Order
    first_byte_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """How long after its moment a request was sent: the generator's own lateness, which spoils a run."""
    errors: Counter[str] = field(default_factory=Counter)
    offered: int = 0
    """That count."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of all: `answers`, `refused`, `errors`."""
    _next: int = 0
    _free: list[Connection] = field(default_factory=list)

    async def run(self) -> dict[str, Any]:
        started = time.perf_counter()
        if self.order.rate is None:
            self._free = [await self._connect() for _ in range(self.order.connections)]
            started = time.perf_counter()
            await asyncio.gather(*(self._closed_loop() for _ in range(self.order.connections)))
        else:
            await self._open_loop(self.order.rate)
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds - self.order.counts_from_s,
            "offered": self.offered,
            "outcomes": self.outcomes,
            "answers": len(self.whole_s),
            "errors": dict(self.errors),
            "refused": len(self.refused_s),
            "refused_ms": _quantiles_ms(self.refused_s),
            "late_ms": _quantiles_ms(self.late_s),
            "first_byte_ms": _quantiles_ms(self.first_byte_s),
            "whole_ms": _quantiles_ms(self.whole_s),
        }

    async def _closed_loop(self) -> None:
        while self._next < self.order.requests:
            self._next += 1
            refused = len(self.refused_s)
            await self._once(self._next, time.perf_counter())
            if len(self.refused_s) > refused:
                await asyncio.sleep(self.order.after_refusal_s)

    async def _open_loop(self, rate: float) -> None:
        moments = random.Random(1)  # noqa: S311  # the same moments every time
        began = at = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(1, self.order.requests + 1):
                at += moments.expovariate(rate)
                await asyncio.sleep(at - time.perf_counter())
                group.create_task(self._once(number, at, counts=at - began >= self.order.counts_from_s))

    async def _once(self, number: int, intended: float, *, counts: bool = True) -> None:
        self.late_s.append(time.perf_counter() - intended)
        for attempt in range(self.order.retries + 1):
            await asyncio.sleep(attempt and 2 ** (attempt - 2) * random.uniform(0.5, 1))  # noqa: S311  # no secret
            seen = await self._attempt(number)
            if isinstance(seen, float):
                break
        self.offered += counts
        self.outcomes["answers" if isinstance(seen, float) else "refused" if seen is None else "errors"] += 1
        if not counts:
            return
        took_s = time.perf_counter() - intended
        if isinstance(seen, float):
            self.whole_s.append(took_s)
            self.first_byte_s.append(seen - intended)
        elif seen is None:
            self.refused_s.append(took_s)
        else:
            self.errors[seen] += 1

    async def _attempt(self, number: int) -> float | str | None:
        """The moment of the first byte, None for a refusal, or why there was no answer."""
        try:
            connection = self._free.pop() if self._free else await self._connect()
            first_at = await connection.ask(self.order.request(number))
        except (OSError, _BadAnswerError) as error:  # and the connection is left: nobody knows what comes on it
            return str(error) if isinstance(error, _BadAnswerError) else type(error).__name__
        if not connection.is_last:
            self._free.append(connection)
        return None if connection.is_refused else first_at

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self.order), "127.0.0.1", self.order.port)
        return connection


def _quantiles_ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    return {name: ordered[int(len(ordered) * share)] * 1000 for name, share in (("p50", 0.5), ("p99", 0.99))}


if __name__ == "__main__":
    order = Order(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(Load(order).run()), sys.stdout)
