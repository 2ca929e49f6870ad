"""How a noun gets its verbs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.cli.admin_api import AdminApi
from gateway.cli.printing import record

Run = Callable[[argparse.Namespace, Mapping[str, str]], Any]
"""Does it, in an environment, and returns what it found, as JSON has it. Raises `CommandError`."""
Show = Callable[[Any, argparse.Namespace], str]
"""What people read of that."""

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # it has no public name


def show_record(found: Any, _: argparse.Namespace) -> str:
    return record(found)


def verbs_of(noun: argparse.ArgumentParser) -> Verbs:
    return noun.add_subparsers(dest="verb", required=True)


def add_verb(verbs: Verbs, name: str, about: str, run: Run, show: Show = show_record) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.add_argument("--json", action="store_true", help="print JSON; times are Unix seconds")
    parser.set_defaults(run=run, show=show)
    return parser


def asking(method: str, path: str, body: Callable[[argparse.Namespace], Any] | None = None) -> Run:
    """Ask the admin API once; `path` is filled in from the arguments: `keys/{id}`."""

    def run(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
        request = {} if body is None else {"json": body(options)}
        named = {name: quote(str(value), safe="") for name, value in vars(options).items()}
        return AdminApi.from_environment(environ).ask(method, path.format_map(named), **request)

    return run
