"""A collector that is gone, swallows connections or stalls costs callers nothing, and memory a bounded amount."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from devstack import env_file
from e2e.up_process import UpProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]
REQUESTS = 100
"""Four spans each at the gateway: beyond what is under way to a collector, and well below what a queue holds."""
MOST_GROWTH_BYTES = 48 * 2**20
"""A full queue of 2,048 spans is about 10 MB; the rest is the allocator's."""
_DROPPED = re.compile(r"^spillway_telemetry_dropped_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@contextlib.contextmanager
def gone(port: int) -> Iterator[None]:
    """Nobody listens: a connection is refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        yield


@contextlib.contextmanager
def swallowing(port: int) -> Iterator[None]:
    """No connection is ever accepted, and none refused: the queue of those that wait for it is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        yield


@contextlib.contextmanager
def stalling(port: int) -> Iterator[None]:
    """Connections are accepted, spans are read, and no answer ever comes."""
    with socket.create_server(("127.0.0.1", port)) as listener, contextlib.ExitStack() as open_:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = open_.enter_context(listener.accept()[0])
                    threading.Thread(target=read, args=(connection,), daemon=True).start()

        def read(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while connection.recv(65_536):
                    pass

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            server.join(5)


def test_no_collector_is_no_trouble(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    with UpProcess(tmp_path / "local", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint) as up:
        gateway = up.service_pid("gateway")
        ask_all(up)
        before = resident_bytes(gateway)
        dropped = 0.0
        ways: tuple[Callable[[int], contextlib.AbstractContextManager[None]], ...] = (gone, swallowing, stalling)
        for way in ways:
            with way(port):
                assert ask_all(up) == [200] * REQUESTS, way.__name__
                wait_until(lambda before=dropped: dropped_spans(up) > before, 30, f"spans are lost: {way.__name__}")  # type: ignore[misc]
                dropped = dropped_spans(up)
        assert resident_bytes(gateway) - before < MOST_GROWTH_BYTES
        assert up.log.count('"message":"request"') >= 4 * REQUESTS


def ask_all(up: UpProcess) -> list[int]:
    """Send requests, eight at a time; a caller that waited for a collector would wait longer than its 10 s."""
    headers = {"authorization": f"Bearer {up.client['OPENAI_API_KEY']}"}
    with (
        httpx2.Client(base_url=up.client["SPILLWAY_URL"], headers=headers, timeout=10, trust_env=False) as http,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(_: int) -> int:
            body = {"model": "sim-small", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
            return http.post("/v1/chat/completions", json=body).status_code

        return list(pool.map(ask, range(REQUESTS)))


def dropped_spans(up: UpProcess) -> float:
    """By the gateway's own account."""
    port = env_file.read(up.local / "stack.env")["GATEWAY_METRICS_PORT"]
    found = _DROPPED.search(httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)
    assert found, "spillway_telemetry_dropped_total"
    return float(found[1])


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
