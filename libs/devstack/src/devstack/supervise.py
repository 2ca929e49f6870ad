"""Runs the parts side by side: honcho starts them, prefixes their lines and stops them all; a small shell loop around
each part starts it again when it alone dies.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import honcho.manager  # type: ignore[import-untyped]  # honcho has no types, here and below
from honcho.printer import Printer  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from devstack.plan import Part

KILL_AFTER_S = 3
"""What a part gets between SIGTERM and SIGKILL."""
_STOPPED_BY_SIGNAL = {known["rc"] for known in honcho.manager.SIGNALS.values()}
_LOOP = Path(__file__).with_name("keep_running.sh")


class _Lines(Printer):  # type: ignore[misc]
    """Prefixes lines with their part. One part speaks to the reader of the terminal and has no prefix."""

    def __init__(self, plain: str) -> None:
        super().__init__(sys.stdout)
        self._plain = plain

    def write(self, message: Any) -> None:
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME:
            return  # a line per process and signal; what matters is said by the parts
        if message.name == self._plain:
            print(message.data.decode("utf-8", "replace"), end="", flush=True)
        else:
            super().write(message)


def run(parts: tuple[Part, ...], environment: Mapping[str, str], alive: Path, *, plain: str) -> bool:
    """Run until a signal or until a part gives up; True if it was a signal. No process is left when it returns.

    The lines of the part named `plain` are printed as they are.
    """
    honcho.manager.KILL_WAIT = KILL_AFTER_S
    manager = honcho.manager.Manager(_Lines(plain))
    for part in parts:
        loop = shlex.join(["exec", "sh", str(_LOOP), str(alive)])
        command = {"PART_COMMAND": shlex.join(part.command)}
        manager.add_process(part.name, loop, env={**os.environ, **environment, **command})
    with _held_open(alive):
        gc.freeze()  # honcho forks once per part: pages that no collection touches stay shared
        try:
            manager.loop()
        except KeyError:
            return True  # honcho was told to stop before each part had a process id; the closing pipe stops them all
        except BrokenPipeError:
            return False  # nobody reads our lines any more (`up | head`): likewise
    return manager.returncode in _STOPPED_BY_SIGNAL


@contextlib.contextmanager
def _held_open(alive: Path) -> Iterator[None]:
    alive.unlink(missing_ok=True)
    os.mkfifo(alive, 0o600)
    descriptor = os.open(alive, os.O_RDWR)  # open for reading as well, so that opening waits for nobody
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))
    try:
        yield
    finally:
        os.close(descriptor)
