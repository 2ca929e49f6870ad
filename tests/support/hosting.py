"""What a hosting platform makes of its manifest in `infra/fly` or `infra/render`: the environment of each service."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import cache.settings
import gateway.settings
import inference.settings
import jobs.settings

if TYPE_CHECKING:
    from common.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": gateway.settings.Settings,
    "inference": inference.settings.Settings,
    "cache": cache.settings.Settings,
    "jobs": jobs.settings.Settings,
    "worker": jobs.settings.WorkerSettings,
}
IMAGES = {name: "jobs" if name == "worker" else name for name in SETTINGS}


def fly_apps() -> dict[str, dict[str, Any]]:
    """Each `infra/fly/<name>.toml`."""
    return {path.stem: tomllib.loads(path.read_text()) for path in (ROOT / "infra/fly").glob("*.toml")}


def render_services() -> dict[str, dict[str, Any]]:
    """Each service and store of `infra/render/render.yaml`, by its name without `spillway-`."""
    blueprint = yaml.safe_load((ROOT / "infra/render/render.yaml").read_text())
    return {service["name"].removeprefix("spillway-"): service for service in blueprint["services"]}


def render_environments() -> dict[str, dict[str, str]]:
    """What Render would put into the environment of each service; what is secret there is made up here."""
    services = render_services()
    variables = {
        (name, entry["key"]): entry for name, service in services.items() for entry in service.get("envVars", [])
    }

    def value_of(name: str, key: str) -> str:
        entry = variables[name, key]
        if "value" in entry:
            return str(entry["value"])
        source = entry.get("fromService")
        if source is None:  # Render generates 256 bits, or asks whoever deploys
            return f"made-up:{name}:{key}".ljust(44, "=")
        other = source["name"].removeprefix("spillway-")
        assert services[other]["type"] == source["type"]
        if "envVarKey" in source:
            return value_of(other, source["envVarKey"])
        if source["property"] == "connectionString":
            return f"redis://{source['name']}:6379"
        assert source["property"] == "hostport"
        return f"{source['name']}-1a2b:{value_of(other, 'PORT')}"

    environments: dict[str, dict[str, str]] = {name: {} for name in services}
    for name, key in variables:
        environments[name][key] = value_of(name, key)
    return environments
