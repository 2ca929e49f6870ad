"""What comes in from others: by hash, as wheels, not too fresh, without code that runs by itself, on record."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import yaml

from support.images import IMAGES, LOCK, MEMBERS, ROOT, brought_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGISTRY = {name: package for name, package in LOCK.items() if "registry" in package["source"]}
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())


def test_every_file_of_the_lock_has_its_hash_and_comes_from_the_public_index() -> None:
    for name, package in REGISTRY.items():
        assert package["source"] == {"registry": "https://pypi.org/simple"}, name
        for file in [*package["wheels"], *([package["sdist"]] if "sdist" in package else [])]:
            assert file["hash"].startswith("sha256:"), name
            assert file["url"].startswith("https://files.pythonhosted.org/"), name


def test_everything_locked_is_ours_or_of_the_registry() -> None:
    assert set(LOCK) - set(REGISTRY) == MEMBERS
    assert all(re.fullmatch(r"[^ ]+==[^ ]+ \\", line) for line in _requirements() if not line.startswith(" "))


def _requirements() -> list[str]:
    lines = (ROOT / "justw.requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_whatever_an_image_needs_comes_as_a_wheel(machine: str) -> None:
    needed = set().union(*map(brought_by, IMAGES)) - MEMBERS
    fitting = re.compile(
        rf"-(?:py2\.py3|py3|cp311|cp3\d*-abi3|cp311-cp311)-?.*(?:any|manylinux\w*_{machine}(?:\.manylinux\w*)*)\.whl$"
    )
    assert [name for name in needed if not any(fitting.search(wheel["url"]) for wheel in LOCK[name]["wheels"])] == []


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_in_an_image_runs_by_itself_whenever_python_starts(image: str) -> None:
    """A `.pth` file may hold code, which Python runs at each start; no wheel has one, and none of our sources."""
    files = {name: _files_of(name) for name in brought_by(image) - MEMBERS}
    assert [name for name, paths in files.items() if any(path.endswith(".pth") for path in paths)] == []
    assert len([paths for paths in files.values() if paths]) > len(files) * 0.8  # it did look
    assert [path for folder in ("libs", "services") for path in (ROOT / folder).rglob("*.pth")] == []


def _files_of(name: str) -> list[str]:
    try:
        return [str(path) for path in distribution(name).files or []]
    except PackageNotFoundError:  # of another platform or Python
        return []


def test_a_release_cools_down_before_it_is_locked_and_before_it_is_proposed() -> None:
    cool_down = re.fullmatch(
        r"(\d+) days", tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["exclude-newer"]
    )
    assert cool_down is not None
    options = tomllib.loads((ROOT / "uv.lock").read_text())["options"]
    assert options["exclude-newer-span"] == f"P{cool_down[1]}D"
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert all(update["cooldown"]["default-days"] > int(cool_down[1]) for update in updates)
    assert {"uv", "github-actions"} <= {update["package-ecosystem"] for update in updates}


PACKAGES = "sudo apt-get update && sudo apt-get install --yes --no-install-recommends prometheus"
"""What recipes use where it is installed."""


def test_the_workflow_runs_recipes_alone_pinned_and_with_the_least_permissions() -> None:
    recipes = set(re.findall(r"(?m)^@?([a-z][a-z-]*)(?: [^:=]*)?:(?!=)", (ROOT / "justfile").read_text()))
    assert WORKFLOW["permissions"] == {}
    for job in WORKFLOW["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if step.get("run") == PACKAGES:
                assert "promtool" in (ROOT / "justfile").read_text()
            elif "run" in step:
                command = re.fullmatch(r"\./justw ([a-z-]+)", step["run"])
                assert command is not None
                assert command[1] in recipes
            else:
                assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
                assert step["uses"].partition("@")[0] != "actions/checkout" or not step["with"]["persist-credentials"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_sbom_names_what_the_image_gets_and_no_more(image: str, tmp_path: Path) -> None:
    bom = sbom(image, tmp_path)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    assert bom["metadata"]["component"]["name"] == image
    named = {component["name"]: component for component in bom["components"]}
    assert set(named) == brought_by(image) - {image}
    for name in set(named) - MEMBERS:
        assert named[name]["purl"] == f"pkg:pypi/{name}@{LOCK[name]['version']}"
        files = {file["hash"] for file in LOCK[name]["wheels"]}
        stated = {f"sha256:{reference['hashes'][0]['content']}" for reference in named[name]["externalReferences"]}
        assert files <= stated


def sbom(image: str, folder: Path) -> dict[str, Any]:
    """What `just sbom` writes, in a folder that has the manifests alone."""
    for part in ("pyproject.toml", "uv.lock", "libs", "services", "infra"):
        (folder / part).symlink_to(ROOT / part)
    told = _run(["sh", "infra/supply/sbom.sh", image], folder=folder)
    assert told.stdout.strip() == f"dist/{image}.cdx.json"
    read: dict[str, Any] = json.loads((folder / told.stdout.strip()).read_text())
    return read


class Advisories(http.server.BaseHTTPRequestHandler):
    """OSV, as far as `uv audit` asks it."""

    known: ClassVar[set[str]] = set()
    asked: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        names = [query["package"]["name"] for query in queries]
        self.asked.update(names)
        vulns = [{"id": "GHSA-made-up-1", "modified": "2026-01-01T00:00:00Z"}]
        self._answer({"results": [{"vulns": vulns} if name in self.known else {} for name in names]})

    def do_GET(self) -> None:
        self._answer({"id": "GHSA-made-up-1", "summary": "Made up.", "modified": "2026-01-01T00:00:00Z"})

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def advisories(*known: str) -> Iterator[tuple[str, set[str]]]:
    """An advisory service that knows something of these packages: its URL, and whom it was asked about."""
    asked: set[str] = set()
    handler = type("Handler", (Advisories,), {"known": set(known), "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def look_up(url: str, needed: str = "") -> subprocess.CompletedProcess[str]:
    return _run(["sh", "infra/supply/advisories.sh", "--service-url", url], SPILLWAY_ADVISORIES=needed)


def _run(command: list[str], folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a recipe runs it: with the uv of `./justw` on the path."""
    path = os.pathsep.join([*map(str, sorted((ROOT / ".tools").glob("just-*"))), os.environ["PATH"]])
    if shutil.which("uv", path=path) is None:
        pytest.skip("uv is not at hand; ./justw brings it")
    env = os.environ | environment | {"PATH": path}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  # ours


def test_a_known_vulnerability_of_anything_locked_fails_the_check() -> None:
    with advisories("fastapi") as (url, _):
        told = look_up(url)
    assert told.returncode == 1
    assert "fastapi" in told.stderr
    assert "GHSA-made-up-1" in told.stderr


def test_without_one_the_check_passes_and_everything_was_asked_about() -> None:
    with advisories() as (url, asked):
        told = look_up(url)
    assert (told.returncode, told.stderr) == (0, "")
    assert asked == set(REGISTRY)


@pytest.mark.parametrize(("needed", "status"), [("", 0), ("required", 2)])
def test_advisories_that_cannot_be_had_are_said_and_fail_where_they_are_required(needed: str, status: int) -> None:
    told = look_up("http://127.0.0.1:9", needed)
    assert told.returncode == status
    assert told.stderr.startswith("advisories: not looked up: ")
