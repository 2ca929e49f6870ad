"""What the gateway spends on one refusal of each kind: CPU time from /proc, a stack that refuses on purpose."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import stack
from bench.load_process import drive
from gateway.access.keys import generate_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLOTS = 4
MOST_REQUESTS = 64
MOST_CONNECTIONS = 128
MOST_FAILED_LOGINS = 2_000
CONNECTIONS = 16
SETTINGS = {
    "GATEWAY_MAX_CONCURRENCY": str(SLOTS),
    "GATEWAY_MAX_REQUESTS": str(MOST_REQUESTS),
    "GATEWAY_CONNECTIONS_PER_ADDRESS": str(MOST_CONNECTIONS),
    "GATEWAY_FAILED_LOGINS_PER_MINUTE": str(MOST_FAILED_LOGINS),
}
_SETTLE_S = 1.0
"""For what was sent, or hung up, to be known there."""
_HALF_A_BODY = b"content-length: 100\r\n\r\n{"


@dataclass(frozen=True)
class Price:
    kind: str
    refused: int
    gateway_ms: float
    """Of CPU time, one refusal."""
    all_ms: float
    p99_ms: float

    def cells(self) -> str:
        values = (f"{self.gateway_ms:.3f}", f"{self.all_ms:.3f}", f"{self.p99_ms:.1f}", f"{self.refused}")
        return f"| {self.kind} | {' | '.join(values)} |"


def report(tracing: str, count: int) -> Iterable[str]:
    """A Markdown table; each kind is refused `count` times."""
    yield "| refusal | gateway CPU ms each | all processes | p99 ms | refusals |"
    yield "|---|---|---|---|---|"
    with stack.running(tracing, stack.Cores.apart(), **SETTINGS) as running:
        _driven(running, 200, running.key, "warm")
        for price in _prices(running, count):
            yield price.cells()


def _prices(running: stack.Stack, count: int) -> Iterator[Price]:
    yield _driven(running, count, running.spent_key, "its limit is used up: 429")
    with _held(running, [_stream(running) for _ in range(SLOTS)]):
        yield _driven(running, count, running.key, "no slot, the queue is full: 503")
    with _held(running, [_head(running) + _HALF_A_BODY] * MOST_REQUESTS):
        yield _driven(running, 4 * count, running.key, "at the door, before it is read: 503")
    with _held(running, [b""] * MOST_CONNECTIONS):
        yield _turned_away(running, count)
    bad = generate_key("bench").text
    yield _driven(running, MOST_FAILED_LOGINS, bad, "a key that nobody has: 401")
    yield _driven(running, count, bad, "too many of these from one network: 429")


def _driven(running: stack.Stack, count: int, key: str, kind: str) -> Price:
    order = {
        "port": running.gateway_port, "path": "/v1/chat/completions", "key": key, "model": stack.MODEL,
        "prompt": f"question {{}} of {os.urandom(4).hex()}", "is_stream": False, "requests": count, "shared": 1,
        "connections": CONNECTIONS, "rate": None, "cache": None, "events": 0,
        "refusals": ["401", "429", "503"], "after_refusal_s": 0,
    }  # fmt: skip
    before = running.cpu_ms()
    load = drive(order, stack.Cores.apart())
    if load["errors"]:
        raise RuntimeError(f"{kind}: {load['errors']}")
    return _price(kind, running, before, load["refused"], load["refused_ms"]["p99"])


def _price(kind: str, running: stack.Stack, before: dict[str, float], refused: int, p99_ms: float) -> Price:
    spent = {name: ms - before[name] for name, ms in running.cpu_ms().items()}
    each = max(refused, 1)
    return Price(kind, refused, spent["gateway"] / each, sum(spent.values()) / each, p99_ms)


def _turned_away(running: stack.Stack, count: int) -> Price:
    """One after the other, each with a connection of its own: nothing else is refused so early."""
    before = running.cpu_ms()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", running.gateway_port)) as wire:
            while wire.recv(65_536):
                pass
    return _price("too many connections: 429 without a request", running, before, count, 0)


def _head(running: stack.Stack) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {running.key}\r\n"
        "content-type: application/json\r\n"
    ).encode()


def _stream(running: stack.Stack) -> bytes:
    message = {"role": "user", "content": f"[[sim ttft_ms=600000]] {os.urandom(4).hex()}"}
    payload = json.dumps({"model": stack.MODEL, "messages": [message], "stream": True}).encode()
    return _head(running) + b"content-length: %d\r\n\r\n" % len(payload) + payload


@contextlib.contextmanager
def _held(running: stack.Stack, sent: Iterable[bytes]) -> Iterator[None]:
    """A connection for each of these, on which it was sent, for as long as the body takes."""
    with contextlib.ExitStack() as open_:
        for data in sent:
            wire = open_.enter_context(socket.create_connection(("127.0.0.1", running.gateway_port)))
            wire.sendall(data)
        time.sleep(_SETTLE_S)
        yield
    time.sleep(_SETTLE_S)
