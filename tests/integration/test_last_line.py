"""A service that is told to stop ends by itself, and says so to the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import httpx2

from support.platform import TLS, eventually
from support.ports import free_port

BOUND_S = 30


def test_a_stop_writes_the_last_line_and_is_no_failure() -> None:
    port = free_port()
    settings = {
        "CACHE_PORT": str(port),
        "CACHE_STORE_URL": "redis://127.0.0.1:1",
        "CACHE_HOP_SECRET": "made-up-secret-" * 3,
        "CACHE_DRAIN_DELAY_S": "0",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CACHE_", "OTEL_"))}
    process = subprocess.Popen([sys.executable, "-m", "cache"], env=environment | settings, stdout=subprocess.PIPE)
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/livez"), within_s=BOUND_S)
        process.send_signal(signal.SIGTERM)
        written, _ = process.communicate(timeout=BOUND_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert json.loads(written.splitlines()[-1])["message"].startswith("Finished server process")


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, verify=TLS, trust_env=False).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False
