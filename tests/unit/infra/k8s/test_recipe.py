"""`./justw k8s` prints what `kubectl apply` takes, or says in one line why not."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from support.kustomization import PATIENCE_S, parse, renderer

if TYPE_CHECKING:
    from pathlib import Path


def run(copy: Path, overlay: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(copy / "render.sh"), overlay]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: S603  # ours


def test_the_recipe_prints_an_overlay_whose_secrets_it_made_once(copy: Path) -> None:
    if renderer() is None:
        pytest.skip("neither kustomize nor kubectl is at hand to render the manifests")
    first, second = run(copy, "local"), run(copy, "local")
    assert first.returncode == 0, first.stderr
    assert {"Namespace", "Deployment", "Secret"} <= {one["kind"] for one in parse(first.stdout)}
    assert first.stdout == second.stdout


def test_an_overlay_that_does_not_exist_is_one_line_and_status_2(copy: Path) -> None:
    done = run(copy, "nosuch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "k8s: there is no overlay nosuch in infra/k8s/overlays\n"
