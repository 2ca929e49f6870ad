"""The command line of administration: `keys`, `tenants` and `audit`, over the admin API.

Reads `SPILLWAY_URL` and `SPILLWAY_ADMIN_KEY` (or the file `GATEWAY_ADMIN_KEY` in `SPILLWAY_SECRETS_DIR`). Two commands
need no gateway: `keys hash` and `keys create --declare` print the entry of a keys file, under `GATEWAY_KEY_PEPPER`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from common.settings import SECRETS_DIR
from gateway.access.keys import generate_key
from gateway.access.records import record_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.access.keys import ApiKey

TIMEOUT_S = 10
_PAGE = 1_000
_DAY_S = 86_400
_LIMITS = {
    "rpm": ("requests_per_minute", int),
    "tpm": ("tokens_per_minute", int),
    "concurrency": ("max_concurrency", int),
    "usd-per-day": ("budget_usd_per_day", float),
    "usd-per-month": ("budget_usd_per_month", float),
    "mode": ("mode", str),
}
_KEY_COLUMNS = ("id", "tenant", "name", "enabled", "expires_at", "last_used_at")


class CommandError(Exception):
    """An expected failure; its message is what the user reads."""


class AdminApi:
    """The admin API of one gateway. A refusal is a `CommandError` with the gateway's own words."""

    def __init__(self, base_url: str, admin_key: str) -> None:
        self._base_url = base_url
        self._headers = {"authorization": f"Bearer {admin_key}"}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AdminApi:
        found = {"SPILLWAY_URL": environ.get("SPILLWAY_URL"), "SPILLWAY_ADMIN_KEY": _admin_key(environ)}
        url, key = found.values()
        if not url or not key:
            missing = " and ".join(name for name, value in found.items() if not value)
            raise CommandError(f"{missing} not set (./justw up writes both to .local/dev.env)")
        return cls(url, key)

    def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            with httpx2.Client(
                base_url=self._base_url, headers=self._headers, timeout=TIMEOUT_S, trust_env=False
            ) as client:
                answer = client.request(method, path, **request)
        except httpx2.HTTPError as error:
            raise CommandError(f"the gateway does not answer: {type(error).__name__}") from None
        if answer.is_error:
            try:
                raise CommandError(f"{answer.status_code}: {answer.json()['error']['message']}")
            except (ValueError, LookupError, TypeError):
                raise CommandError(f"status {answer.status_code}") from None
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def pages(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """All of a list, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.ask("GET", path, params={**params, "after": after, "limit": _PAGE})
            found += page["data"]
            if not page["next_after"]:
                return found
            after = page["next_after"]


def _admin_key(environ: Mapping[str, str]) -> str | None:
    """The variable, else the gateway's own secret where it is a file: then nothing has to be said in its container."""
    if key := environ.get("SPILLWAY_ADMIN_KEY"):
        return key
    file = Path(environ.get(SECRETS_DIR) or os.devnull) / "GATEWAY_ADMIN_KEY"
    return file.read_text("utf-8").strip() if file.is_file() else None


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command and return its exit status. An expected failure is one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        found = options.run(options, environ)
    except CommandError as error:
        sys.stderr.write(f"{options.noun} {options.verb}: {error}\n")
        return 1
    _print(found, options)
    return 0


def _create(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    body = {"tenant": options.tenant, "name": options.name} | _said(options)
    if options.declare:
        key = generate_key("live")
        sys.stderr.write(f"{key.text}\n")  # apart from the entry, which goes into a file
        return _entry(key, body, environ)
    return AdminApi.from_environment(environ).ask("POST", "/admin/keys", json=body)


def _hash(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    from gateway.access.keys import ApiKey as Key  # noqa: PLC0415  # the type above is for the checker

    key = Key.parse(sys.stdin.readline().strip())
    if key is None:
        raise CommandError("what stands on standard input is no Spillway key")
    return _entry(key, {"tenant": options.tenant, "name": options.name} | _said(options), environ)


def _entry(key: ApiKey, body: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    if not environ.get("GATEWAY_KEY_PEPPER"):
        raise CommandError("GATEWAY_KEY_PEPPER not set: a digest is made under the gateway's pepper")
    record = record_for(key.text, pepper=environ["GATEWAY_KEY_PEPPER"], tenant=body["tenant"], name=body["name"])
    return {"id": record.kid, "digest": record.digest} | body


def _said(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that were named on the command line."""
    limits = {
        field: getattr(options, name.replace("-", "_"))
        for name, (field, _) in _LIMITS.items()
        if getattr(options, name.replace("-", "_"), None) is not None
    }
    said: dict[str, Any] = {"limits": limits} if limits else {}
    for name in ("models", "cache", "priority", "trusted_trace", "capture_content"):
        if getattr(options, name, None) is not None:
            said[name] = getattr(options, name)
    if getattr(options, "expires_in_days", None) is not None:
        said["expires_at"] = round(time.time() + options.expires_in_days * _DAY_S)
    return said


def _on_key(method: str, suffix: str = "", body: Callable[[argparse.Namespace], Any] | None = None) -> Any:
    def run(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
        request = {} if body is None else {"json": body(options)}
        return AdminApi.from_environment(environ).ask(method, f"/admin/keys/{options.id}{suffix}", **request)

    return run


def _list_keys(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    tenant = {"tenant": options.tenant} if options.tenant else {}
    return AdminApi.from_environment(environ).pages("/admin/keys", **tenant)


def _list_tenants(_: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    return AdminApi.from_environment(environ).pages("/admin/tenants")


def _list_audit(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    return AdminApi.from_environment(environ).ask("GET", "/admin/audit", params={"limit": options.limit})["data"]


def _on_tenant(method: str) -> Any:
    def run(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
        request = {"json": _said(options) | {"enabled": not options.disabled}} if method == "PUT" else {}
        return AdminApi.from_environment(environ).ask(method, f"/admin/tenants/{options.tenant}", **request)

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./justw", description="Keys and tenants of a Spillway gateway.")
    nouns = parser.add_subparsers(dest="noun", required=True)
    _add_keys(nouns.add_parser("keys", help="API keys").add_subparsers(dest="verb", required=True))
    _add_tenants(nouns.add_parser("tenants", help="tenants").add_subparsers(dest="verb", required=True))
    trail = nouns.add_parser("audit", help="who changed what").add_subparsers(dest="verb", required=True)
    newest = _verb(trail, "list", "the newest changes", _list_audit)
    newest.add_argument("--limit", type=int, default=20)
    return parser


def _add_keys(verbs: Any) -> None:
    create = _verb(verbs, "create", "make a key; it is shown this once", _create)
    hashed = _verb(verbs, "hash", "print the keys file's entry of the key on standard input", _hash)
    for verb in (create, hashed):
        verb.add_argument("--tenant", required=True)
        verb.add_argument("--name", required=True)
        _add_key_fields(verb)
    create.add_argument("--declare", action="store_true", help="make no record: print the keys file's entry")
    listed = _verb(verbs, "list", "list keys", _list_keys)
    listed.add_argument("--tenant")
    change = _verb(verbs, "change", "change what is named", _on_key("PATCH", body=_said))
    _add_key_fields(change)
    rotate = _verb(verbs, "rotate", "a new secret, shown this once", _on_key("POST", "/rotate", _grace))
    rotate.add_argument("--grace-s", type=float, help="how long the old one stays good; default: an hour")
    others = [
        _verb(verbs, "show", "show a key's record", _on_key("GET")),
        _verb(verbs, "disable", "refuse a key", _on_key("PATCH", body=lambda _: {"enabled": False})),
        _verb(verbs, "enable", "accept it again", _on_key("PATCH", body=lambda _: {"enabled": True})),
        _verb(verbs, "delete", "delete a key", _on_key("DELETE")),
    ]
    for verb in (change, rotate, *others):
        verb.add_argument("id", help="the 16 digits behind sw_live_")


def _add_tenants(verbs: Any) -> None:
    _verb(verbs, "list", "list tenants that have a record", _list_tenants)
    put = _verb(verbs, "set", "set a tenant's limits", _on_tenant("PUT"))
    put.add_argument("--disabled", action="store_true", help="refuse all its keys")
    _add_limits(put)
    for verb in (
        put,
        _verb(verbs, "show", "show a tenant's record", _on_tenant("GET")),
        _verb(verbs, "delete", "delete the record of a tenant without keys", _on_tenant("DELETE")),
    ):
        verb.add_argument("tenant")


def _grace(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.grace_s is None else {"grace_s": options.grace_s}


def _verb(verbs: Any, name: str, about: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _add_key_fields(parser: argparse.ArgumentParser) -> None:
    _add_limits(parser)
    parser.add_argument("--models", type=lambda text: text.split(","), help="public names, separated by commas")
    parser.add_argument("--cache", choices=("all", "deterministic", "off"))
    parser.add_argument("--priority", choices=("interactive", "batch"))
    for flag, about in (("trusted-trace", "go on with a caller's trace"), ("capture-content", "messages in traces")):
        parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, help=about)
    parser.add_argument("--expires-in-days", type=float)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    for name, (field, kind) in _LIMITS.items():
        parser.add_argument(f"--{name}", type=kind, help=field.replace("_", " "))


def _print(found: Any, options: argparse.Namespace) -> None:
    if options.json or (isinstance(found, dict) and "digest" in found):
        sys.stdout.write(json.dumps(found, indent=None if options.json else 2) + "\n")
    elif isinstance(found, list):
        columns = _KEY_COLUMNS if options.noun == "keys" else tuple(found[0]) if found else ()
        rows = [columns, *([_text(row.get(name)) for name in columns] for row in found)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
        for row in rows:
            sys.stdout.write(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
            )
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:<14} {_text(value)}\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if inner is not None}
        return json.dumps(value) if value else "-"
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
