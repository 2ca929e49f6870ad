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
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from support.platform import TLS, Platform, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 40
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
def replicas(stack: Platform, count: int, *, logs: Path | None = None, **settings: object) -> Iterator[list[Replica]]:
    """Run `count` more gateways of `stack`, ready to serve; `settings` are theirs that differ."""
    ours = {**stack.gateway_settings, "drain_delay_s": 0, "drain_timeout_s": 1, **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
    environment |= {f"GATEWAY_{name.upper()}": _text(value) for name, value in ours.items()}
    with contextlib.ExitStack() as running:
        started = []
        for number in range(count):
            port = _free_port()
            log = running.enter_context(
                (Path(os.devnull) if logs is None else logs / f"gateway-{number}.log").open("wb")
            )
            process = subprocess.Popen(  # our own
                [sys.executable, "-m", "gateway"],
                env=environment | {"GATEWAY_PORT": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            running.callback(_end, process)
            started.append(Replica(f"http://127.0.0.1:{port}", process))
        for replica in started:
            eventually(functools.partial(_is_ready, replica.url, stack.key), within_s=_START_S)
        yield started


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(url: str, key: str) -> bool:
    """It serves and has looked up the key: on a busy machine the first look-up may miss its time, which is a 503."""
    try:
        if httpx2.get(f"{url}/readyz", verify=TLS, trust_env=False).status_code != httpx2.codes.OK:
            return False
        authorization = {"authorization": f"Bearer {key}"}
        asked = httpx2.post(f"{url}/generate", json={}, headers=authorization, verify=TLS, trust_env=False)
    except httpx2.TransportError:
        return False
    return asked.status_code == httpx2.codes.BAD_REQUEST


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
