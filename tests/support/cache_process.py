"""The cache service as a process of its own, whose store is away: it answers all the same, and starts fast."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from support.platform import eventually
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BOUND_S = 30
COMMAND = [sys.executable, "-m", "cache"]


def environment(**settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CACHE_", "OTEL_"))}
    ours = {
        "CACHE_STORE_URL": f"redis://127.0.0.1:{free_port()}",
        "CACHE_HOP_SECRET": "the-cache-hop-secret-of-the-tests-0123456789abcdef",
        "CACHE_PORT": str(free_port()),
        "CACHE_DRAIN_DELAY_S": "0",
        "CACHE_FLUSH_TIMEOUT_S": "1",
    }
    return clean | ours | settings


class CacheProcess:
    def __init__(self, its: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{its['CACHE_PORT']}"
        self.process = subprocess.Popen(COMMAND, env=its, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ours

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> int | None:
        """The status; None while nobody listens."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))  # noqa: S310  # ours
        try:
            with urllib.request.urlopen(request, timeout=BOUND_S) as answer:  # noqa: S310  # as above
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def stop(self) -> list[dict[str, Any]]:
        """Its log lines, once it has ended."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=BOUND_S)
        return [json.loads(line) for line in output.splitlines()]


@contextlib.contextmanager
def cache_process(**settings: str) -> Iterator[CacheProcess]:
    service = CacheProcess(environment(**settings))
    try:
        eventually(lambda: service.get("/livez"), BOUND_S)
        yield service
    finally:
        service.process.kill()
        service.process.communicate()
