"""`keys`: make, list, show, change, rotate, disable, enable and delete API keys; the entries of a keys file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.access.keys import ApiKey, generate_key
from gateway.access.records import record_for
from gateway.cli.admin_api import AdminApi, CommandError
from gateway.cli.fields import add_key_fields, said
from gateway.cli.printing import record, table
from gateway.cli.verbs import add_verb, asking, verbs_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_COLUMNS = ("id", "tenant", "name", "enabled", "expires_at", "last_used_at")


def add(noun: argparse.ArgumentParser) -> None:
    verbs = verbs_of(noun)
    create = add_verb(verbs, "create", "make a key; it is shown this once", _create, _show_new)
    hashed = add_verb(verbs, "hash", "print the keys file's entry of the key on standard input", _hash, _show_entry)
    for verb in (create, hashed):
        verb.add_argument("--tenant", required=True)
        verb.add_argument("--name", required=True)
        add_key_fields(verb)
    create.add_argument("--declare", action="store_true", help="make no record: print the keys file's entry")
    listed = add_verb(verbs, "list", "list keys", _list, _show_list)
    listed.add_argument("--tenant")
    change = add_verb(verbs, "change", "change what is named; the rest stays", asking("PATCH", "keys/{id}", said))
    add_key_fields(change)
    rotating = asking("POST", "keys/{id}/rotate", _grace)
    rotate = add_verb(verbs, "rotate", "give a key a new secret, shown this once", rotating, _show_new)
    rotate.add_argument("--grace-s", type=float, help="how long the old one stays good; default: an hour")
    others = (
        add_verb(verbs, "show", "show a key's record", asking("GET", "keys/{id}")),
        add_verb(verbs, "disable", "refuse a key", asking("PATCH", "keys/{id}", lambda _: {"enabled": False})),
        add_verb(verbs, "enable", "accept it again", asking("PATCH", "keys/{id}", lambda _: {"enabled": True})),
        add_verb(verbs, "delete", "delete a key", asking("DELETE", "keys/{id}"), _show_deleted),
    )
    for verb in (change, rotate, *others):
        verb.add_argument("id", help="the 16 digits behind sw_live_")


def _create(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    body = {"tenant": options.tenant, "name": options.name} | said(options)
    if options.declare:
        key = generate_key("live")
        entry = _entry(key, body, environ)
        sys.stderr.write(f"{key.text}\n")  # apart from the entry, which goes into a file
        return entry
    return AdminApi.from_environment(environ).ask("POST", "keys", json=body)


def _hash(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    key = ApiKey.parse(sys.stdin.readline().strip())
    if key is None:
        raise CommandError("what stands on standard input is no Spillway key")
    return _entry(key, {"tenant": options.tenant, "name": options.name} | said(options), environ)


def _entry(key: ApiKey, body: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    if not environ.get("GATEWAY_KEY_PEPPER"):
        raise CommandError("GATEWAY_KEY_PEPPER not set: a digest is made under the gateway's pepper")
    made = record_for(key.text, pepper=environ["GATEWAY_KEY_PEPPER"], tenant=body["tenant"], name=body["name"])
    return {"id": made.kid, "digest": made.digest} | body


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    tenant = {"tenant": options.tenant} if options.tenant else {}
    return AdminApi.from_environment(environ).pages("keys", **tenant)


def _grace(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.grace_s is None else {"grace_s": options.grace_s}


def _show_new(found: Any, options: argparse.Namespace) -> str:
    if "digest" in found:
        return _show_entry(found, options)
    sys.stderr.write("The key is shown this once.\n")
    return record(found)


def _show_entry(found: Any, _: argparse.Namespace) -> str:
    return json.dumps(found, indent=2)  # YAML too


def _show_list(found: Any, options: argparse.Namespace) -> str:
    return table(found, _COLUMNS, empty=f"{options.tenant} has no keys" if options.tenant else "no keys")


def _show_deleted(_: Any, options: argparse.Namespace) -> str:
    return f"{options.id} deleted"
