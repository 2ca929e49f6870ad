"""The variants of the manifests that are judged: their sources, and what kustomize makes of them if it is at hand."""

from __future__ import annotations

import importlib.util
import shutil
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from support import kustomization
from support.kustomization import K8S

if TYPE_CHECKING:
    from pathlib import Path

    from support.kustomization import Object

OVERLAYS = ("local", "production")
VARIANTS = {
    "local": ("local", ()),
    "local by IngressRoute": ("local", ("ingress-route",)),
    "production": ("production", ()),
    "production in a canary": ("production", ("canary",)),
    "production in blue and green": ("production", ("blue-green",)),
}
"""An overlay, and the components that a reader is told to add to it."""


def load_make_secrets() -> Any:
    spec = importlib.util.spec_from_file_location("make_secrets", K8S / "make_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def secrets() -> dict[str, dict[str, str]]:
    """Those of the component plain-secrets, which are also the entries that a secret manager has to have."""
    made: dict[str, dict[str, str]] = load_make_secrets().made()
    return made


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests, with secrets made, where a test may add components."""
    folder = tmp_path_factory.mktemp("manifests") / "k8s"
    shutil.copytree(K8S, folder, ignore=shutil.ignore_patterns("secrets.yaml"))
    make_secrets = load_make_secrets()
    make_secrets.TARGET = folder / "components" / "plain-secrets" / "secrets.yaml"
    make_secrets.main()
    for variant, (overlay, components) in VARIANTS.items():
        place = folder / "overlays" / slug(variant)
        if components:
            shutil.copytree(folder / "overlays" / overlay, place)
            source = place / "kustomization.yaml"
            lines = "".join(f"  - ../../components/{name}\n" for name in components)
            source.write_text(source.read_text().replace("components:\n", f"components:\n{lines}", 1))
    return folder


def slug(variant: str) -> str:
    return variant.replace(" ", "-")


@pytest.fixture(scope="session", params=[f"{how} {name}" for how in ("sources of", "rendered") for name in VARIANTS])
def objects(request: pytest.FixtureRequest, copy: Path) -> list[Object]:
    how, _, variant = str(request.param).replace("sources of", "sources").partition(" ")
    return read(copy, variant) if how == "sources" else rendered(copy, variant)


@pytest.fixture(scope="session", params=VARIANTS)
def rendered_objects(request: pytest.FixtureRequest, copy: Path) -> list[Object]:
    """As kustomize renders them, alone."""
    return rendered(copy, str(request.param))


@lru_cache
def read(copy: Path, variant: str) -> list[Object]:
    return kustomization.read(copy / "overlays" / slug(variant)).objects


@lru_cache
def rendered(copy: Path, variant: str) -> list[Object]:
    command = kustomization.renderer()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is at hand to render the manifests")
    return kustomization.render(command, copy / "overlays" / slug(variant))
