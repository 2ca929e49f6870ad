"""The variants of the manifests that are judged: as sources, and as rendered where kustomize is at hand."""

from __future__ import annotations

import importlib.util
import json
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
UNPATCHED = [name for name, (_, components) in VARIANTS.items() if not {"canary", "blue-green"} & set(components)]
"""Right even before their patches. The others are made by patches, so that only kustomize can tell."""


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
            source.write_text(source.read_text().replace("configMapGenerator:\n", f"{lines}configMapGenerator:\n", 1))
    return folder


def slug(variant: str) -> str:
    return variant.replace(" ", "-")


@pytest.fixture(scope="session", params=[*UNPATCHED, *(f"rendered {name}" for name in VARIANTS)])
def objects(request: pytest.FixtureRequest, copy: Path) -> list[Object]:
    """The sources of a variant, without any tool; then the same and more, rendered."""
    variant = str(request.param).removeprefix("rendered ")
    return read(copy, variant) if variant == request.param else rendered(copy, variant)


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


@pytest.fixture(scope="session")
def every_object(copy: Path) -> list[Object]:
    """Of all variants, each different one once; where nothing renders them, as their sources have them."""
    has_renderer = kustomization.renderer() is not None
    variants = [rendered(copy, name) for name in VARIANTS] if has_renderer else [read(copy, name) for name in UNPATCHED]
    return list({json.dumps(one, sort_keys=True): one for variant in variants for one in variant}.values())


@pytest.fixture(scope="session")
def canary(copy: Path) -> list[Object]:
    return rendered(copy, "production in a canary")


@pytest.fixture(scope="session")
def green(copy: Path) -> list[Object]:
    return rendered(copy, "production in blue and green")
