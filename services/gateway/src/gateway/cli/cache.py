"""`cache`: what is in it, and taking it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import AdminApi
from gateway.cli.printing import table
from gateway.cli.verbs import add_verb, asking, verbs_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_COUNTS = ("hits", "misses", "follows", "stored")
_MIB = 2**20


def add(noun: argparse.ArgumentParser) -> None:
    verbs = verbs_of(noun)
    add_verb(verbs, "stats", "hits and misses by tenant, and the store's memory", asking("GET", "cache/stats"), _show)
    purge = add_verb(
        verbs, "purge", "delete the entries to which everything that is named applies", _purge, _show_purged
    )
    purge.add_argument("--tenant")
    purge.add_argument("--model", help="its public name")
    purge.add_argument("--older-than-s", type=float, metavar="N", help="seconds since they were stored")
    purge.add_argument("--everything", action="store_true", help="all entries of all tenants; names nothing else")


def _purge(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    """In as many calls as it takes."""
    named = {name: getattr(options, name) for name in ("tenant", "model", "older_than_s", "everything")}
    wanted = {name: value for name, value in named.items() if value not in (None, False)}
    api, deleted = AdminApi.from_environment(environ), 0
    while True:
        told = api.ask("POST", "cache/purges", json=wanted)
        deleted += told["deleted"]
        if told["is_complete"]:
            return {"deleted": deleted, "is_complete": True}


def _show_purged(found: Any, _: argparse.Namespace) -> str:
    return f"{found['deleted']} entries deleted; other gateways may answer them from memory for two seconds more"


def _show(found: Any, _: argparse.Namespace) -> str:
    tenants = [{"tenant": name} | counters for name, counters in sorted(found["tenants"].items())]
    store = found["store"]
    used, most = store["used_bytes"] / _MIB, store["max_bytes"] / _MIB
    replica = ", ".join(f"{name.replace('_', ' ')} {str(value).lower()}" for name, value in found["replica"].items())
    return "\n".join(
        (
            table([*tenants, {"tenant": "total"} | found["total"]], ("tenant", *_COUNTS), empty=""),
            f"store: {store['keys']} keys, {used:.1f} of {most:.1f} MiB, {store['evicted_keys']} evicted",
            f"replica: {replica}",
        )
    )
