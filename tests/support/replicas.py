"""Further replicas of the gateway as processes of their own, which a test may kill."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from support.platform import BOUND_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.platform import Platform

_START_S = 30
_POLL_S = 0.02


@dataclass(frozen=True)
class Replica:
    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(BOUND_S)


@contextlib.contextmanager
def replicas(stack: Platform, count: int) -> Iterator[list[Replica]]:
    """Start `count` gateways over the platform's parts; they are ready when the body runs."""
    with contextlib.ExitStack() as running:
        started = [running.enter_context(_replica(stack)) for _ in range(count)]
        for replica in started:
            _await_ready(replica)
        yield started


@contextlib.contextmanager
def _replica(stack: Platform) -> Iterator[Replica]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {**stack.gateway_settings} | {
        "port": port,
        "log_level": "error",
        "drain_delay_s": 0,
        "drain_timeout_s": 1,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
    environment |= {f"GATEWAY_{name.upper()}": _text(value) for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stdout=subprocess.DEVNULL)
    try:
        yield Replica(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait(BOUND_S)


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _await_ready(replica: Replica) -> None:
    deadline = time.monotonic() + _START_S
    with httpx2.Client(trust_env=False) as http:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                if http.get(f"{replica.url}/readyz").status_code == httpx2.codes.OK:
                    return
            if replica.process.poll() is not None:
                raise RuntimeError("the gateway did not start")
            time.sleep(_POLL_S)
    raise TimeoutError
