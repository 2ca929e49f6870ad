"""Workers as processes, to be killed and frozen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.platform import JOBS_SEAL_SECRET, SECRETS
from support.ports import free_port

_STOP_S = 10


class WorkerProcess:
    """One worker. Its settings are those of the process's environment; times are short, so that a test is."""

    def __init__(self, state_url: str, gateway_url: str, **settings: Any) -> None:
        known: dict[str, Any] = {
            "state_url": state_url,
            "gateway_url": gateway_url,
            "seal_secret": JOBS_SEAL_SECRET,
            "gateway_hop_secret": SECRETS["hop_secret"],
            "reap_interval_s": 0.2,
            "retry_base_s": 0.1,
            "lease_s": 2,
            "heartbeat_s": 0.5,
            "port": free_port(),
            "log_level": "error",
        }
        variables = {f"WORKER_{name.upper()}": str(value) for name, value in (known | settings).items()}
        self._process = subprocess.Popen(  # ours
            [sys.executable, "-m", "support.deadly_worker"],
            env={**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.DEVNULL,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_S)

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def stop(self) -> int:
        """As a platform does: SIGTERM. Returns the exit status."""
        self._send(signal.SIGTERM)
        return self._process.wait(_STOP_S)

    def close(self) -> None:
        if self.is_alive:
            self.kill()

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
