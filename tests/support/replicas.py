"""Gateways as processes of their own, beside those of `support.platform`, that a test may kill and freeze."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from support.platform import MODEL, SECRETS, Platform, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STOP_S = 10


@dataclass(frozen=True)
class Replica:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_STOP_S)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def gateways(stack: Platform, state_url: str, count: int, logs: Path, **settings: object) -> Iterator[list[Replica]]:
    """Run `count` more gateways of `stack`, ready to serve; `settings` are theirs that differ."""
    ours: dict[str, object] = {
        **SECRETS,
        "state_url": state_url,
        "inference_url": stack.inference,
        "cache_url": stack.cache,
        "default_model": MODEL,
        "drain_delay_s": 0,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
    environment |= {f"GATEWAY_{name.upper()}": str(value) for name, value in (ours | settings).items()}
    with contextlib.ExitStack() as running:
        replicas = []
        for number in range(count):
            port = _free_port()
            log = running.enter_context((logs / f"gateway-{number}.log").open("wb"))
            process = subprocess.Popen(  # our own
                [sys.executable, "-m", "gateway"],
                env=environment | {"GATEWAY_PORT": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            running.callback(_end, process)
            replicas.append(Replica(f"http://127.0.0.1:{port}", process))
        for replica in replicas:
            eventually(functools.partial(_is_ready, replica.url))
        yield replicas


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", trust_env=False).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
