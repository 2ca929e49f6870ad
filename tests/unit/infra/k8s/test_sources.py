"""The sources of the Kubernetes manifests, without any tool: nothing hangs in the air."""

from __future__ import annotations

import itertools
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from inference import models_file
from support.kubernetes import PREFIXED
from support.kustomization import K8S, ROOT, Kustomization, documents, kustomizations, read

if TYPE_CHECKING:
    from pathlib import Path

    from support.kustomization import Object

FOLDERS = list(kustomizations())
PRODUCTION = K8S / "overlays" / "production"


def named(folder: Path) -> str:
    return str(folder.relative_to(K8S))


def whole(folder: Path) -> list[Object]:
    """The objects that the patches of this folder are for: its own, or for a component those of production as well."""
    own = read(folder).objects
    if folder.parent.name != "components":
        return own
    return own + [one for one in read(PRODUCTION).objects if one not in own] + read(K8S / "base").objects


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_every_path_in_a_kustomization_exists(folder: Path) -> None:
    missing = [path for path in read(folder).files if not path.exists()]
    assert missing == []


def test_every_manifest_is_used_by_a_kustomization() -> None:
    used = set().union(*(read(folder).files for folder in FOLDERS))
    written = {path for path in K8S.rglob("*") if path.suffix in {".yaml", ".conf"} and path.name != "secrets.yaml"}
    assert {str(path.relative_to(K8S)) for path in written - used} == set()


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_every_patch_has_a_target_and_changes_what_is_there(folder: Path) -> None:
    kustomization = read(folder)
    for patch in kustomization.patches:
        if patch.owner.parent != folder or patch.is_deletion:
            continue  # judged where it stands; what was deleted is not there any more
        targets = patch.targets(whole(folder))
        assert targets, f"{patch.owner}: {patch.target} is nobody"
        assert len({one["kind"] for one in targets}) == 1
        for one in targets:
            if isinstance(patch.content, list):
                for operation in patch.content:
                    assert operation["op"] == "replace"
                    lookup(one, operation["path"])
            else:
                assert patch.content["kind"] == one["kind"]
                containers = patch.content["spec"]["template"]["spec"]["containers"]
                known = {container["name"] for container in one["spec"]["template"]["spec"]["containers"]}
                assert {container["name"] for container in containers} <= known


def lookup(value: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) names. Raises `KeyError` or `IndexError`."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if read(folder).patches], ids=named)
def test_a_patch_that_deletes_has_something_to_delete(folder: Path) -> None:
    for patch in read(folder).patches:
        if patch.owner.parent == folder and patch.is_deletion:
            everything = [one for path in K8S.glob("base/*/*.yaml") for one in documents(path) if "metadata" in one]
            kinds = patch.target["kind"].split("|")
            assert {one["kind"] for one in patch.targets(everything)} == set(kinds)


def test_no_variable_that_a_patch_sets_is_made_up() -> None:
    for path in [*K8S.glob("overlays/*/*.yaml"), *K8S.glob("components/*/*.yaml")]:
        for name in re.findall(r"name: ((?:GATEWAY|INFERENCE|CACHE|JOBS|WORKER)_[A-Z_]+)", path.read_text()):
            prefix, _, rest = name.partition("_")
            assert rest.lower() in PREFIXED[prefix.lower()].model_fields, f"{path}: {name}"


@pytest.mark.parametrize("overlay", [folder for folder in FOLDERS if folder.parent.name == "overlays"], ids=named)
def test_an_overlay_says_where_every_image_comes_from(overlay: Path) -> None:
    """Those of a release by weights included, so that one line more is all that such a release takes."""
    (content,) = documents(overlay / "kustomization.yaml")
    given = {entry["name"] for entry in content["images"]}
    assert all("newTag" in entry or "digest" in entry for entry in content["images"])
    wanted = {image for image in images(read(overlay)) if image.startswith("spillway-")}
    assert wanted <= given
    for image in wanted:
        service = image.removeprefix("spillway-")
        assert list(ROOT.glob(f"services/{service}/Dockerfile")) or list(ROOT.glob(f"libs/{service}/Dockerfile"))


def images(kustomization: Kustomization) -> set[str]:
    pods = [one["spec"]["template"]["spec"] for one in kustomization.objects if "template" in one.get("spec", {})]
    return {container["image"] for container in itertools.chain(*(pod["containers"] for pod in pods))}


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_the_catalogue_of_an_overlay_is_one_that_inference_takes(overlay: str) -> None:
    path = K8S / "overlays" / overlay / "models.yaml"
    catalogue = models_file.read(path.read_bytes(), str(path))
    assert catalogue.models


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_the_catalogue_keeps_its_name_so_that_running_pods_see_it_change(overlay: str) -> None:
    (models,) = (one for one in read(K8S / "overlays" / overlay).objects if one["metadata"]["name"] == "models")
    assert models["metadata"]["annotations"]["test/name"] == "fixed"


def test_secrets_are_made_once_for_their_owner_alone_and_git_does_not_know_them(copy: Path) -> None:
    made = copy / "components" / "plain-secrets" / "secrets.yaml"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    documents = list(yaml.safe_load_all(made.read_text()))
    values = [value for document in documents for value in document["stringData"].values()]
    assert len(values) == len(set(values))
    assert min(map(len, values)) >= 43  # 256 bits in base64
    relative = (K8S / "components" / "plain-secrets" / "secrets.yaml").relative_to(ROOT)
    assert str(relative) in (ROOT / ".gitignore").read_text().splitlines()
