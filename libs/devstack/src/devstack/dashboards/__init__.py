"""Grafana's dashboards as code; `./justw dashboards` writes their JSON to infra/compose/grafana/dashboards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from devstack.dashboards.cache_and_limits import CACHE_AND_LIMITS
from devstack.dashboards.jobs import JOBS
from devstack.dashboards.models_and_targets import MODELS_AND_TARGETS
from devstack.dashboards.overview import OVERVIEW
from devstack.dashboards.panels import render

if TYPE_CHECKING:
    from pathlib import Path

DASHBOARDS = (OVERVIEW, MODELS_AND_TARGETS, CACHE_AND_LIMITS, JOBS)


def documents() -> dict[str, bytes]:
    """Return each dashboard as it is committed, by file name."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return {
        f"{dashboard.uid.removeprefix('spillway-')}.json": orjson.dumps(render(dashboard), option=options)
        for dashboard in DASHBOARDS
    }


def write(directory: Path) -> None:
    for name, document in documents().items():
        path = directory / name
        path.write_bytes(document)
        print(path)
