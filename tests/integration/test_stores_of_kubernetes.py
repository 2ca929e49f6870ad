"""The configuration of the stores in `infra/k8s` is one that a real server takes, started as their pods start it."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from redis import AuthenticationError, Redis
from redis.exceptions import ConnectionError as NotThereError

from devstack.stores import STORES, binary
from support.kustomization import K8S
from support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

BOUND_S = 30
PASSWORD = "a-password-of-the-tests"


@pytest.mark.parametrize("name", [store.name for store in STORES])
def test_a_store_starts_with_its_file_and_asks_for_its_password(name: str, tmp_path: Path) -> None:
    port = free_port()
    file = K8S / "components" / "stores" / f"{name}.conf"
    ours = ["--port", str(port), "--dir", str(tmp_path), "--bind", "127.0.0.1"]
    command = [str(binary()), str(file), "--requirepass", PASSWORD, *ours]
    with subprocess.Popen(command) as server, Redis(port=port, password=PASSWORD) as client:  # noqa: S603  # the real server
        try:
            await_reply(client)
            assert client.set("a-key", 1)
            wanted = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if line[:1].isalpha())
            assert client.config_get("maxmemory-policy", "appendonly") == {
                option: wanted[option] for option in ("maxmemory-policy", "appendonly")
            }
            with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
        finally:
            server.terminate()
            server.wait(BOUND_S)


def await_reply(client: Redis) -> None:
    until = time.monotonic() + BOUND_S
    while True:
        try:
            client.ping()
        except NotThereError:
            assert time.monotonic() < until
        else:
            return
