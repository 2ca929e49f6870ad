"""`openapi`: writes each service's OpenAPI document below docs/openapi, where it is the contract that reviews see.

Beside them `wire.json`: the header names and shapes that services agree on, which OpenAPI does not say.
"""

from __future__ import annotations

import importlib
import typing
from pathlib import Path
from typing import Any

import orjson

from common import wire
from devstack import credentials, plan, ports, upstream
from devstack.local_dir import LocalDir

SERVICES = ("gateway", "inference", "cache", "jobs")
_MADE_UP = "no secret: a document needs none of them"


def write(directory: Path) -> None:
    for service in SERVICES:
        path = directory / f"{service}.json"
        path.write_bytes(render(service))
        print(path)
    path = directory / "wire.json"
    path.write_bytes(_rendered(words()))
    print(path)


def render(service: str) -> bytes:
    """Return the document as it is committed: indented, keys sorted, so that a diff shows what changed."""
    return _rendered(document(service))


def _rendered(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def words() -> dict[str, dict[str, str]]:
    """Return what stands in `common.wire`: names by constant, shapes by field, outcomes."""
    shapes = (wire.Price, wire.CatalogueModel, wire.Catalogue)
    return {
        "names": {name: value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str)},
        "outcomes": {outcome: outcome for outcome in typing.get_args(wire.CacheOutcome)},
        "shapes": {
            f"{shape.__name__}.{field}": str(type_)
            for shape in shapes
            for field, type_ in typing.get_type_hints(shape).items()
        },
    }


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
