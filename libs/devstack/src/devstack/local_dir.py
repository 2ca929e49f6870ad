"""What a checkout keeps between two starts, below `.local/` (or `SPILLWAY_LOCAL_DIR`), and who may use it now."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devstack.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STOP_TIMEOUT_S = 8
"""What `down` grants a stack: it stops itself within 5 s."""
_POLL_S = 0.05


@dataclass(frozen=True)
class LocalDir:
    root: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> LocalDir:
        return cls(Path(environ.get("SPILLWAY_LOCAL_DIR") or ".local").absolute())

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.env"

    @property
    def stack_env(self) -> Path:
        """How the running stack is configured: what one more replica of a service needs."""
        return self.root / "stack.env"

    @property
    def models(self) -> Path:
        """The catalogue of a stack that asks the simulator."""
        return self.root / "models.yaml"

    @property
    def dev_env(self) -> Path:
        """What a client of the stack needs; to be sourced."""
        return self.root / "dev.env"

    @property
    def pid(self) -> Path:
        return self.root / "up.pid"

    @property
    def alive(self) -> Path:
        """A pipe that `up` holds open: its end is the end of `up`, however that came about."""
        return self.root / "alive"

    @property
    def replicas(self) -> Path:
        """Every replica that `run` started holds a lock on it."""
        return self.root / "replicas"

    @property
    def demo_log(self) -> Path:
        """What a stack said that `demo` had started."""
        return self.root / "demo.log"

    def store(self, name: str) -> Path:
        return self.root / name


@contextlib.contextmanager
def claimed(local: LocalDir) -> Iterator[None]:
    """Hold the directory. Raises `CommandError` when a running stack holds it.

    The lock passes on to forked children, so it is free once the last of them is gone.
    """
    local.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(local.pid, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(descriptor):
            pid = _read_pid(descriptor)
            raise CommandError(
                f"a stack is running already (pid {pid}); use it, or stop it with ./justw down; "
                "a second one needs a SPILLWAY_LOCAL_DIR and a SPILLWAY_PORT_OFFSET of its own"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def running_pid(local: LocalDir) -> int | None:
    """Return the process id of the `up` that holds the directory, None when nothing does."""
    try:
        descriptor = os.open(local.pid, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return None if _lock(descriptor) else _read_pid(descriptor)
    finally:
        os.close(descriptor)


def join(local: LocalDir) -> None:
    """Be one of those whose end `stop` waits for; this process keeps the lock, whatever it becomes."""
    descriptor = os.open(local.replicas, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)  # noqa: FBT003  # the signature of os


def stop(local: LocalDir) -> bool:
    """Stop the running stack, its replicas as well, and wait for their end; False when none runs.

    Raises `CommandError` if it does not end.
    """
    pid = running_pid(local)
    if pid is None:
        return False
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):  # its parts end by themselves once it is gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stop_signal)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            if running_pid(local) is None and not _has_replicas(local):
                return True
            time.sleep(_POLL_S)
    raise CommandError(f"the stack (pid {pid}) does not stop; `ps -ef | grep devstack` shows what is left of it")


def reset(local: LocalDir, stores: tuple[str, ...]) -> bool:
    """Remove what the stack wrote and nothing else; whether there was anything. Raises `CommandError` while it runs."""
    if not local.root.is_dir():
        return False
    with claimed(local):
        for name in stores:
            shutil.rmtree(local.store(name), ignore_errors=True)
        for file in (
            local.secrets,
            local.stack_env,
            local.models,
            local.dev_env,
            local.demo_log,
            local.alive,
            local.replicas,
            local.pid,
        ):
            file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody keeps something else there
        local.root.rmdir()
    return True


def _has_replicas(local: LocalDir) -> bool:
    try:
        descriptor = os.open(local.replicas, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(descriptor: int) -> int:
    return int(os.pread(descriptor, 20, 0) or b"0")
