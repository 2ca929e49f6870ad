"""`audit`: who changed which key or tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import AdminApi
from gateway.cli.printing import table, text
from gateway.cli.verbs import add_verb, verbs_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_COLUMNS = ("at", "by", "action", "subject", "what")
_TOLD_OF_KEYS = ("tenant", "name")
_TOLD_OF_TENANTS = ("enabled", "limits", "model_limits")


def add(noun: argparse.ArgumentParser) -> None:
    newest = add_verb(verbs_of(noun), "list", "the newest changes, the latest first", _list, _show)
    newest.add_argument("--limit", type=int, default=20, help="20; at most 1,000")
    newest.add_argument("--before", metavar="ID", default="", help="go on to older ones: the id of an entry (--json)")


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    params = {"limit": options.limit, "before": options.before}
    return AdminApi.from_environment(environ).ask("GET", "audit", params=params)["data"]


def _show(found: Any, _: argparse.Namespace) -> str:
    return table([entry | {"what": _what(entry)} for entry in found], _COLUMNS, empty="no changes yet")


def _what(entry: Mapping[str, Any]) -> str:
    before, after = entry["before"], entry["after"]
    if before is None or after is None:
        whole = after or before or {}
        names = _TOLD_OF_KEYS if "name" in whole else _TOLD_OF_TENANTS
        return "; ".join(f"{name}: {text(name, whole[name])}" for name in names if name in whole)
    return "; ".join(f"{name}: {text(name, before[name])} -> {text(name, after[name])}" for name in after)
