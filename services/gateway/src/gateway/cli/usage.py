"""`usage`: what was used, by UTC day, tenant, key and model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import AdminApi
from gateway.cli.printing import table
from gateway.cli.verbs import add_verb, verbs_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_COUNTS = ("requests", "refused", "cached", "input_tokens", "output_tokens", "cost_usd")
_COLUMNS = ("day", "tenant", "key", "model", *_COUNTS)
_ASKED = ("from", "to", "tenant", "key", "model")


def add(noun: argparse.ArgumentParser) -> None:
    listed = add_verb(verbs_of(noun), "list", "one line for each day, tenant, key and model", _list, _show)
    listed.add_argument("--from", metavar="DAY", help="the first UTC day, 2026-11-24; default: today")
    listed.add_argument("--to", metavar="DAY", help="the last one; default: today")
    listed.add_argument("--tenant")
    listed.add_argument("--key", metavar="ID")
    listed.add_argument("--model")


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    named = {name: value for name, value in vars(options).items() if name in _ASKED and value is not None}
    return AdminApi.from_environment(environ).ask("GET", "usage", params=named)


def _show(found: Any, _: argparse.Namespace) -> str:
    rows = found["data"]
    if len(rows) > 1:
        rows = [*rows, {"day": "total", **{name: sum(row[name] for row in rows) for name in _COUNTS}}]
    return table(rows, _COLUMNS, empty=f"nothing was used from {found['from']} to {found['to']}")
