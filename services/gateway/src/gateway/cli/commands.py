"""Administration on the command line: a noun, a verb, over the admin API.

Reads `SPILLWAY_URL` and `SPILLWAY_ADMIN_KEY`; in a gateway's container its own settings say both. Two commands need no
gateway: `keys hash` and `keys create --declare` print the entry of a keys file, under `GATEWAY_KEY_PEPPER`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from gateway.cli import cache, jobs, keys, tenants, trail, usage
from gateway.cli.admin_api import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command and return its exit status. An expected failure is one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        found = options.run(options, environ)
    except CommandError as error:
        sys.stderr.write(f"{options.noun} {options.verb}: {error}\n")
        return 1
    sys.stdout.write(f"{json.dumps(found) if options.json else options.show(found, options)}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./justw", description="Administration of a Spillway gateway.")
    nouns = made.add_subparsers(dest="noun", required=True)
    for noun, about, add in (
        ("keys", "API keys", keys.add),
        ("tenants", "what applies to all keys of a tenant together", tenants.add),
        ("usage", "what was used, by day, tenant, key and model", usage.add),
        ("audit", "who changed which key or tenant", trail.add),
        ("cache", "see what the cache holds, or purge it", cache.add),
        ("jobs", "look after jobs: dead letters, and every tenant's", jobs.add),
    ):
        add(nouns.add_parser(noun, help=about, description=f"{about[0].upper()}{about[1:]}."))
    return made
