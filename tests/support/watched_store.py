"""A Valkey in cluster mode that owns every slot, and a witness of each command that scripts run in it."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from support.ports import free_port
from support.valkey import Valkey, policy_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOTS = 16_384
_BOUND_S = 20
_MARKER = "the-witness-has-seen-enough"
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@contextlib.contextmanager
def cluster_of_one(data_dir: Path) -> Iterator[Valkey]:
    """A server that refuses, as every node of a cluster does, what would need keys of several slots at once."""
    policy = policy_of("state") | {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    server = Valkey(policy, data_dir)
    try:
        with Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
            _await_ok(client)
        yield server
    finally:
        server.close()


def _await_ok(client: Redis) -> None:
    """It takes a tick of the server's own clock, 100 ms, to notice that it owns every slot."""
    until = time.monotonic() + _BOUND_S
    while client.cluster("INFO")["cluster_state"] != "ok":
        assert time.monotonic() < until


@dataclass
class Witness:
    """What scripts did: each run's digest, and the slots of all keys that it declared or touched."""

    runs: list[tuple[str, set[int]]] = field(default_factory=list)

    @property
    def scripts(self) -> set[str]:
        return {digest for digest, _ in self.runs}

    @property
    def torn(self) -> list[tuple[str, set[int]]]:
        """Runs whose keys are not all in one slot."""
        return [(digest, slots) for digest, slots in self.runs if len(slots) != 1]


@contextlib.contextmanager
def witness(url: str) -> Iterator[Witness]:
    """Watch (MONITOR) within the body; what was seen is judged at its end."""
    seen = Witness()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with Redis.from_url(url) as watching, Redis.from_url(url) as asking, watching.monitor() as monitor:
        thread = threading.Thread(target=_listen, args=(monitor, lines))
        thread.start()
        yield seen
        asking.echo(_MARKER)
        thread.join(_BOUND_S)
        assert not thread.is_alive()
        while not lines.empty():
            _note(seen, asking, lines.get())


def _listen(monitor: Any, lines: queue.SimpleQueue[bytes]) -> None:
    """Raw: redis-py joins a command's words by blanks, which are in some of our words, too."""
    while _MARKER.encode() not in (line := monitor.connection.read_response()):
        lines.put(line)


def _note(seen: Witness, asking: Redis, line: bytes) -> None:
    words = _WORD.findall(line)
    if b" lua]" in line:
        seen.runs[-1][1].update(key_slot(key) for key in _keys(asking, words))
    elif words[0].upper() == b"EVALSHA":
        declared = words[3 : 3 + int(words[2])]
        seen.runs.append((words[1].decode(), {key_slot(key) for key in declared}))


def _keys(asking: Redis, words: list[bytes]) -> list[bytes]:
    """The keys of a command, by the server's own table."""
    try:
        keys: Any = asking.execute_command("COMMAND GETKEYS", *words)  # type: ignore[no-untyped-call]  # redis leaves it so
    except ResponseError as error:
        if "no key arguments" not in str(error):
            raise
        return []
    return [key.encode() if isinstance(key, str) else key for key in keys]
