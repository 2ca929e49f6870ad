"""Every image, built and started for real: `just images` with SPILLWAY_IMAGE_BASE set (docs/deploy.md)."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support import containers
from support.hosting import SETTINGS
from support.images import IMAGES, LOCK, MEMBERS, ROOT, brought_by
from support.platform import eventually

if TYPE_CHECKING:
    from pathlib import Path

BASE = os.environ.get("SPILLWAY_IMAGE_BASE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),  # a build fetches what it installs
    pytest.mark.skipif(not BASE, reason="SPILLWAY_IMAGE_BASE names no base image (docs/deploy.md)"),
]
PROCESSES = {**{image: (image, []) for image in IMAGES}, "worker": ("jobs", ["jobs.worker"])}
"""Each process: its image, and the command instead of the image's own."""
START_S = 60
LOOK = """
import importlib.metadata, json, os, pathlib
app = pathlib.Path("/app")
files = [path for path in app.rglob("*") if path.is_file() and not path.is_symlink()]
site = [str(path) for path in app.glob("lib/python*/site-packages")]
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "packages": [[held.metadata["Name"], held.version] for held in importlib.metadata.distributions(path=site)],
    "pth": [str(path) for path in files if path.suffix == ".pth"],
    "writable": [str(path) for path in app.rglob("*") if not path.is_symlink() and os.access(path, os.W_OK)],
    "bytes": sum(path.stat().st_size for path in files),
}))
"""


@functools.cache
def builder() -> containers.Builder:
    found = containers.at_hand()
    if found is None:
        pytest.skip("neither docker nor podman nor buildah works here")
    return found


@functools.cache
def built(image: str) -> str:
    builder()
    containers.build(image, BASE)
    return f"spillway-{image}:dev"


@functools.cache
def contents(image: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(builder().python(built(image), LOOK))
    return told


def environment(process: str) -> dict[str, str]:
    """What the process cannot do without, and quick stages of its stop. No store and no service is there."""
    prefix = f"{process.upper()}_"
    if process == "simulator":
        return {f"{prefix}PORT": str(free_port())}
    needed = [name for name, field in SETTINGS[process].model_fields.items() if field.is_required()]
    variables = {
        "PORT": str(free_port()),
        "DRAIN_DELAY_S": "0",
        "DRAIN_TIMEOUT_S": "1",
        **{name.upper(): "redis://127.0.0.1:1" if name.endswith("_url") else "made-up-secret-" * 3 for name in needed},
    }
    if process == "inference":
        variables |= {"UPSTREAM_BASE_URL": "http://127.0.0.1:1/v1", "UPSTREAM_API_KEY": "none"}
    return {f"{prefix}{name}": value for name, value in variables.items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("process", PROCESSES)
def test_an_image_starts_alone_answers_and_stops_when_it_is_told(process: str, tmp_path: Path) -> None:
    image, command = PROCESSES[process]
    variables = environment(process)
    url = f"http://127.0.0.1:{variables[f'{process.upper()}_PORT']}"
    with builder().running(built(image), command, variables, tmp_path / "log") as container:
        eventually(lambda: container.has_ended or answers(url), within_s=START_S)
        assert not container.has_ended, container.said
        if process == "simulator":  # it dies of the signal, which is no failure where it is process 1
            container.end()
        else:
            assert httpx2.get(f"{url}/livez", trust_env=False).json() == {"status": "ok"}
            assert container.stop(innermost=not builder().forwards_signals) == 0, container.said


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_what_the_lock_says_for_it_and_nothing_of_development(image: str) -> None:
    held = {re.sub(r"[._]", "-", name.lower()): version for name, version in contents(image)["packages"]}
    assert held.keys() <= brought_by(image)
    assert image in held
    of_others = held.keys() - MEMBERS
    assert {name: held[name] for name in of_others} == {name: LOCK[name]["version"] for name in of_others}


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_in_an_image_runs_by_itself_or_can_be_changed_by_its_user(image: str) -> None:
    held = contents(image)
    assert held["user"] == [65532, 65532]
    assert held["pth"] == []
    assert held["writable"] == []


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_as_small_as_its_documentation_says(image: str) -> None:
    table = (ROOT / "docs/deploy.md").read_text()
    stated = re.search(rf"(?m)^\| {image} \| (\d+) MB \|", table)
    assert stated is not None
    assert contents(image)["bytes"] <= int(stated[1]) * 1.1e6
