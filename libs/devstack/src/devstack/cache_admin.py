"""`cache stats` and `cache purge`: the gateway's `/admin/cache` on the command line, of the running stack or of any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from devstack import env_file, local_http
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_S = 15
_OK = 200


def show_statistics() -> None:
    """Print hits and misses by tenant, and the store's memory. Raises `CommandError`."""
    seen = _ask("stats")
    print(f"{'tenant':24} {'hits':>8} {'misses':>8} {'follows':>8} {'stored':>8}")
    for tenant, counters in [*sorted(seen["tenants"].items()), ("total", seen["total"])]:
        print(f"{tenant:24} " + " ".join(f"{counters[what]:8}" for what in ("hits", "misses", "follows", "stored")))
    store, replica = seen["store"], seen["replica"]
    used, most = store["used_bytes"] / 2**20, store["max_bytes"] / 2**20
    print(f"store: {store['keys']} keys, {used:.1f} of {most:.1f} MiB, {store['evicted_keys']} evicted")
    print("replica: " + ", ".join(f"{what.replace('_', ' ')} {value}" for what, value in replica.items()))


def purge(wanted: Mapping[str, Any]) -> None:
    """Delete what is named, in as many calls as it takes, and say how much it was. Raises `CommandError`."""
    deleted = 0
    is_complete = False
    while not is_complete:
        told = _ask("purges", dict(wanted))
        deleted, is_complete = deleted + told["deleted"], told["is_complete"]
    print(f"{deleted} entries deleted; a gateway may answer them from its memory for two seconds more")


def _ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    client = env_file.read(LocalDir.from_environ(os.environ).dev_env) | dict(os.environ)
    try:
        url, key = client["SPILLWAY_URL"], client["SPILLWAY_ADMIN_KEY"]
    except KeyError as missing:
        raise CommandError(f"set {missing.args[0]}, or start a stack with ./justw up") from None
    headers = {"authorization": f"Bearer {key}"}
    try:
        answer = local_http.request(f"{url}/admin/cache/{path}", body=body, headers=headers, timeout_s=_TIMEOUT_S)
    except local_http.UnreachableError as error:
        raise CommandError(f"{url} does not answer: {error}") from error
    if answer.status != _OK:
        raise CommandError(f"{url} answered {answer.status}: {answer.json()['error']['message']}")
    told: dict[str, Any] = answer.json()
    return told
