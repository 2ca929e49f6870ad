"""`openapi`: writes each service's OpenAPI document below docs/openapi, where it is the contract that reviews see."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import orjson

from devstack import credentials, plan, ports, upstream
from devstack.local_dir import LocalDir

SERVICES = ("gateway", "inference", "cache", "jobs")
_MADE_UP = "no secret: a document needs none of them"


def write(directory: Path) -> None:
    for service in SERVICES:
        path = directory / f"{service}.json"
        path.write_bytes(render(service))
        print(path)


def render(service: str) -> bytes:
    """Return the document as it is committed: indented, keys sorted, so that a diff shows what changed."""
    return orjson.dumps(
        document(service), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    )


def document(service: str) -> dict[str, Any]:
    """Build the service's application, without opening anything, and ask it."""
    prefix = f"{service.upper()}_"
    fields = {
        name.removeprefix(prefix).lower(): value for name, value in _environment().items() if name.startswith(prefix)
    }
    settings = importlib.import_module(f"{service}.settings").Settings.model_validate(fields)
    described: dict[str, Any] = importlib.import_module(f"{service}.app").create_app(settings).openapi()
    return described


def _environment() -> dict[str, str]:
    assigned = ports.assign({})
    chosen = upstream.choose({}, simulator_url=plan.url(assigned["simulator"]), gateway_url="")
    secrets = dict.fromkeys((*credentials.RANDOM, credentials.DEVELOPMENT_KEY), _MADE_UP)
    return dict(plan.make({}, LocalDir(Path()), assigned, secrets, chosen).environment)
