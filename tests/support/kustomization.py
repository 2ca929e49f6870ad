"""The sources of `infra/k8s`, read without kustomize: what each kustomization brings, and what its patches mean."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
K8S = ROOT / "infra" / "k8s"
MADE = "plain-secrets/secrets.yaml"
"""The one file that is not in git: `make_secrets.py` writes it."""
PATIENCE_S = 60

Object = dict[str, Any]


def parse(text: str | bytes) -> list[Any]:
    """By libyaml: ten times as fast as PyYAML's own."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document is not None]


def documents(path: Path) -> list[Any]:
    return parse(path.read_text("utf-8"))


@dataclass(frozen=True)
class Patch:
    owner: Path
    """The kustomization that applies it."""
    target: dict[str, str]
    content: Any

    def targets(self, objects: list[Object]) -> list[Object]:
        """Those that it would change. As kustomize: kind and name are whole regular expressions."""
        return [one for one in objects if self._is_target(one)]

    def _is_target(self, one: Object) -> bool:
        metadata = one["metadata"]
        wanted = dict(part.split("=") for part in self.target.get("labelSelector", "").split(",") if part)
        return (
            re.fullmatch(self.target.get("kind", ".*"), one["kind"]) is not None
            and re.fullmatch(self.target.get("name", ".*"), metadata["name"]) is not None
            and wanted.items() <= metadata.get("labels", {}).items()
        )

    @property
    def is_deletion(self) -> bool:
        return isinstance(self.content, dict) and self.content.get("$patch") == "delete"


@dataclass
class Kustomization:
    """One folder: its objects before its own patches but after the deletions of those below, and its patches."""

    folder: Path
    objects: list[Object] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    """Everything that it reads, all below included."""


def read(folder: Path) -> Kustomization:
    """Follow a kustomization down. Raises `FileNotFoundError` for a path that does not exist."""
    found = Kustomization(folder)
    _follow(found, folder)
    return found


def _follow(found: Kustomization, folder: Path) -> None:
    """A component goes on with the objects of whoever includes it; a resource is a world of its own."""
    source = folder / "kustomization.yaml"
    (content,) = documents(source)
    found.files.add(source)
    for entry in content.get("resources", []):
        _add(found, (folder / entry).resolve())
    for entry in content.get("components", []):
        _follow(found, (folder / entry).resolve())
    for generator in content.get("configMapGenerator", []):
        found.objects.append(_config_map(found, folder, generator))
    for entry in content.get("patches", []):
        patch = _patch(found, source, entry)
        found.patches.append(patch)
        if patch.is_deletion:
            doomed = patch.targets(found.objects)
            found.objects = [one for one in found.objects if one not in doomed]
    if suffix := content.get("nameSuffix"):
        _rename(found.objects, suffix)


def _add(found: Kustomization, path: Path) -> None:
    if path.is_dir():
        below = read(path)
        found.objects += below.objects
        found.patches += below.patches
        found.files |= below.files
    elif path.exists() or not path.match(MADE):
        found.files.add(path)
        found.objects += documents(path)


def _config_map(found: Kustomization, folder: Path, generator: dict[str, Any]) -> Object:
    files = [folder / name for name in generator.get("files", [])]
    found.files |= set(files)
    data = dict(literal.split("=", 1) for literal in generator.get("literals", []))
    data |= {path.name: path.read_text("utf-8") for path in files}
    is_fixed = generator.get("options", {}).get("disableNameSuffixHash", False)
    annotations = {"test/name": "fixed" if is_fixed else "with a hash"}
    metadata = {"name": generator["name"], "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patch(found: Kustomization, source: Path, entry: dict[str, Any]) -> Patch:
    if "path" in entry:
        path = source.parent / entry["path"]
        found.files.add(path)
        (content,) = documents(path)
    else:
        (content,) = parse(entry["patch"])
    return Patch(source, entry["target"], content)


def _rename(objects: list[Object], suffix: str) -> None:
    """As nameSuffix does, references between these objects included."""
    names = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        one["metadata"]["name"] += suffix
        target = one.get("spec", {}).get("scaleTargetRef")
        if target and (target["kind"], target["name"]) in names:
            target["name"] += suffix


def renderer() -> list[str] | None:
    """The command that renders a folder, if this machine has one."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def render(command: list[str], folder: Path) -> list[Object]:
    """What a cluster would be told. Raises `CalledProcessError`."""
    done = subprocess.run([*command, str(folder)], capture_output=True, timeout=PATIENCE_S, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stderr.decode()
    return parse(done.stdout)


def kustomizations() -> Iterator[Path]:
    return (path.parent for path in sorted(K8S.rglob("kustomization.yaml")))
