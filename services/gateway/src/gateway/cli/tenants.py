"""`tenants`: what applies to all keys of a tenant together."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import AdminApi
from gateway.cli.fields import add_limits, said
from gateway.cli.printing import table
from gateway.cli.verbs import add_verb, asking, verbs_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = ("tenant", "enabled", "limits", "model_limits")


def add(noun: argparse.ArgumentParser) -> None:
    verbs = verbs_of(noun)
    add_verb(verbs, "list", "list tenants that have a record", _list, _show_list)
    change = add_verb(
        verbs, "set", "change what is named; the rest stays", asking("PATCH", "tenants/{tenant}", _changed)
    )
    either = change.add_mutually_exclusive_group()
    for flag, about in (("disabled", "refuse all its keys"), ("enabled", "accept them again")):
        either.add_argument(
            f"--{flag}", dest="enabled", action="store_const", const=flag == "enabled", default=argparse.SUPPRESS,
            help=about,
        )  # fmt: skip
    add_limits(change)
    for verb in (
        change,
        add_verb(verbs, "show", "show a tenant's record", asking("GET", "tenants/{tenant}")),
        add_verb(
            verbs, "delete", "delete the record of a tenant without keys", asking("DELETE", "tenants/{tenant}"),
            lambda _, options: f"{options.tenant} deleted",
        ),
    ):  # fmt: skip
        verb.add_argument("tenant")


def _list(_: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    return AdminApi.from_environment(environ).pages("tenants")


def _changed(options: argparse.Namespace) -> dict[str, Any]:
    return said(options) | ({"enabled": options.enabled} if "enabled" in options else {})


def _show_list(found: Any, _: argparse.Namespace) -> str:
    return table(found, _COLUMNS, empty="no tenant has a record: none has limits of its own")
