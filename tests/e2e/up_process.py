"""`up` as a user runs it: a process in a terminal's foreground group, with a directory and ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx2

from devstack import env_file, ports
from support.platform import TLS
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKOUT = Path(__file__).parents[2]
UP = (sys.executable, "-m", "devstack", "up")
STOP_S = 5
"""What `up` promises."""
_READY_S = 60
_POLL_S = 0.02
# What would change what `up` starts; the machine's own settings are no part of the test.
_FOREIGN = re.compile(r"(SPILLWAY|GATEWAY|INFERENCE|CACHE|JOBS|WORKER|SIMULATOR|UPSTREAM|OPENAI|OTEL)_")


def environment(local: Path, offset: int, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    return {**kept, "SPILLWAY_LOCAL_DIR": str(local), "SPILLWAY_PORT_OFFSET": str(offset), **extra}


def free_offset() -> int:
    """An offset whose ports are all free, below the ones that the kernel hands out.

    Any of them, so that two runs of the suite on one machine do not want the same one.
    """
    for offset in random.SystemRandom().sample(range(1_000, 20_000, 10), 1_900):
        with contextlib.ExitStack() as held:
            try:
                for port in ports.DEFAULTS.values():
                    held.enter_context(socket.create_server((ports.HOST, port + offset)))
            except OSError:
                continue
            return offset
    raise RuntimeError("no free ports")


def wait_until(is_so: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll, because a process that is not ours to wait for tells nobody when it ends."""
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(_POLL_S)


def devstack(env: Mapping[str, str], *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devstack", *arguments]
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603  # ours


class UpProcess:
    """A stack that is ready; leaving stops it and whatever a failed test left of it."""

    def __init__(self, local: Path, offset: int | None = None, command: tuple[str, ...] = UP, **environ: str) -> None:
        self.local = local
        self.offset = free_offset() if offset is None else offset
        self.env = environment(local, self.offset, **environ)
        self._log = local.with_suffix(".log")
        with self._log.open("w") as log:
            # A session of its own, as a terminal gives one: Ctrl-C goes to its foreground group.
            self.process = subprocess.Popen(  # noqa: S603  # ours
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT, start_new_session=True
            )
        self._seen: set[int] = set()

    def __enter__(self) -> Self:
        try:
            wait_until(self._is_decided, _READY_S, "ready")
            assert self.process.poll() is None, self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.pids()
        self.interrupt()
        try:
            self.process.wait(STOP_S)
            wait_until(self.is_gone, STOP_S, "everything stopped")
        finally:
            for pid in self._alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def client(self) -> dict[str, str]:
        """What a client exports: dev.env."""
        return env_file.read(self.local / "dev.env")

    def log_lines(self, service: str) -> list[dict[str, Any]]:
        """What a service has logged so far."""
        lines = [json.loads(line[line.index("{") :]) for line in self.log.splitlines() if '"service"' in line]
        return [line for line in lines if line["service"] == service]

    def make_key(self, **fields: Any) -> str:
        """An API key of the tenant `dev` with these fields."""
        with httpx2.Client(base_url=self.client["SPILLWAY_URL"], trust_env=False) as http:
            authorization = {"authorization": f"Bearer {self.client['SPILLWAY_ADMIN_KEY']}"}
            asked = {"tenant": "dev", "name": "a test's"} | fields
            made: list[str] = []

            def is_made() -> bool:  # a busy machine's store may not answer in its 0.2 s
                answer = http.post("/admin/keys", json=asked, headers=authorization)
                made[:] = [answer.json()["key"]] if answer.is_success else []
                return bool(made)

            wait_until(is_made, 10, "the key is made")
        return made[0]

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def pids(self, command_ends: str = "") -> list[int]:
        """The processes of the stack whose command line ends so; all of them are remembered for `is_gone`."""
        rows = _processes()
        found = {self.process.pid}
        while more := {pid for pid, (parent, _) in rows.items() if parent in found} - found:
            found |= more
        self._seen |= found
        return sorted(pid for pid in found if pid in rows and rows[pid][1].endswith(command_ends))

    def service_pid(self, name: str) -> int:
        """The service itself, which alone has these words at the end of its command line."""
        (pid,) = self.pids(f" -m {name}")
        return pid

    def is_gone(self) -> bool:
        self.process.poll()
        return not self._alive()

    def _alive(self) -> set[int]:
        return self._seen & set(_processes())

    def _is_decided(self) -> bool:
        return "Spillway is ready" in self.log or self.process.poll() is not None


@dataclass(frozen=True)
class Replica:
    url: str
    metrics_url: str
    log: Path


@contextlib.contextmanager
def replica(stack: UpProcess, service: str, **environ: str) -> Iterator[Replica]:
    """One more process of a service beside the stack, with settings of its own."""
    chosen = {f"{service.upper()}_{name}": str(free_port()) for name in ("PORT", "METRICS_PORT")}
    url, metrics_url = (f"http://{ports.HOST}:{port}" for port in chosen.values())
    settings = env_file.read(stack.local / "stack.env") | chosen | environ
    log = stack.local.with_name(f"{service}-{chosen[f'{service.upper()}_PORT']}.log")
    with (
        log.open("w") as output,
        subprocess.Popen(  # noqa: S603  # ours
            [sys.executable, "-m", service], env=stack.env | settings, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or _is_ready(url), _READY_S, f"{service} is ready")
            yield Replica(url, metrics_url, log)
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", verify=TLS, trust_env=False).is_success
    except httpx2.TransportError:
        return False


def _processes() -> dict[int, tuple[int, str]]:
    """The living processes: parent and command line by pid."""
    command = ["ps", "-Awwo", "pid=,ppid=,stat=,args="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603  # fixed
    rows = [line.split(maxsplit=3) for line in listing.splitlines()]
    return {int(pid): (int(parent), args.strip()) for pid, parent, stat, args in rows if not stat.startswith("Z")}
