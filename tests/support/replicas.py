"""Gateways as processes of their own, beside those of `support.platform`, that a test may kill and freeze."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from support.platform import TLS, Platform, eventually
from support.ports import free_port

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
        started: list[Replica] = []
        running.callback(_end, started)
        for number in range(count):
            port = free_port()
            log = running.enter_context(
                (Path(os.devnull) if logs is None else logs / f"gateway-{number}.log").open("wb")
            )
            process = subprocess.Popen(  # our own
                [sys.executable, "-m", "gateway"],
                env=environment | {"GATEWAY_PORT": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            started.append(Replica(f"http://127.0.0.1:{port}", process))
        with httpx2.Client(verify=TLS, trust_env=False) as prober:
            for replica in started:
                eventually(functools.partial(_is_ready, prober, replica.url, stack.key), within_s=_START_S)
        yield started


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _is_ready(prober: httpx2.Client, url: str, key: str) -> bool:
    """It serves and has looked up the key: on a busy machine the first look-up may miss its time, which is a 503."""
    try:
        if prober.get(f"{url}/readyz").status_code != httpx2.codes.OK:
            return False
        asked = prober.post(f"{url}/generate", json={}, headers={"authorization": f"Bearer {key}"})
    except httpx2.TransportError:
        return False
    return asked.status_code == httpx2.codes.BAD_REQUEST


def _end(started: list[Replica]) -> None:
    """All at once: each takes half a second, mostly of waiting."""
    left = [replica for replica in started if replica.process.poll() is None]
    for replica in left:
        replica.thaw()
        replica.process.terminate()
    for replica in left:
        try:
            replica.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            replica.kill()
