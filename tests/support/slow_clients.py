"""Clients that hold a connection and give nothing for it."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
_DRIP_EVERY_S = 0.25
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED = "01"
LARGE = 40_000
"""Tokens of an answer that is more than the kernel takes off a server's hands: about 200 KB."""
READER = "a reader that does not read"
_DRIPS = {"a slow head": b"X-A: b\r\n", "a slow body": b"1\r\n \r\n"}
"""What is sent again and again."""
KINDS = ("no bytes", "half a head", "a slow head", "half a body", "a slow body", READER)


class SlowClients:
    """`count` of them, of all kinds in turn. `closed` says, by kind, how long the server let each live (s)."""

    def __init__(self, url: str, key: str, count: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._wanted = list(itertools.islice(itertools.cycle(KINDS), count))
        self._first = _first_bytes(key)
        self._open: dict[int, tuple[str, socket.socket, float]] = {}
        self._stopping = threading.Event()
        self.closed: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def left(self, after_s: float = 0) -> Counter[str]:
        """How many are open yet, by kind."""
        self._stopping.wait(after_s)
        return Counter(kind for kind, _, _ in list(self._open.values()))

    def __enter__(self) -> Self:
        for kind in self._wanted:
            wire = socket.socket()
            if kind == READER:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            wire.connect(self._address)
            wire.settimeout(0)
            self._open[wire.getsockname()[1]] = (kind, wire, time.monotonic())
            _send(wire, self._first[kind])
        self._thread = threading.Thread(target=self._live, name="slow-clients")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for _kind, wire, _since in self._open.values():
            wire.close()

    def _live(self) -> None:
        while not self._stopping.wait(_DRIP_EVERY_S):
            held = _held_by(self._address[1])
            for port, (kind, wire, since) in list(self._open.items()):
                if port in held:
                    _send(wire, _DRIPS.get(kind, b""))
                else:
                    self.closed[kind].append(time.monotonic() - since)
                    self._open.pop(port)[1].close()


def _first_bytes(key: str) -> Mapping[str, bytes]:
    known = _HEAD + b"Authorization: Bearer %b\r\n" % key.encode()
    body = json.dumps(large_answer()).encode()
    return {
        "no bytes": b"",
        "half a head": _HEAD,
        "a slow head": _HEAD,
        "half a body": known + b"Content-Length: 1000\r\n\r\n{",
        "a slow body": known + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        READER: known + b"Content-Length: %d\r\n\r\n" % len(body) + body,
    }


def large_answer() -> dict[str, object]:
    """A request whose answer is so large; asked for once before, it comes from the cache."""
    message = {"role": "user", "content": f"[[sim tokens={LARGE}]] a long story"}
    return {"model": "sim-small", "messages": [message]}


def _send(wire: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has been closed meanwhile
        wire.send(data)


def _held_by(port: int) -> set[int]:
    """The clients' ports of all connections that the server at `port` has open, by the kernel's account.

    Source: proc(5), /proc/net/tcp. Who does not read cannot see for itself that it was closed.
    """
    held = set()
    for table in _TABLES:
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                held.add(int(remote.rpartition(":")[2], 16))
    return held
