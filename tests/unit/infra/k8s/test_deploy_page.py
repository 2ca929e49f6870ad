"""What docs/deploy.md says of Kubernetes is what the manifests say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from support.kubernetes import SERVICES, container_of, of_kind, pod_of, service_of, variables, workloads
from support.kustomization import K8S, ROOT, read

if TYPE_CHECKING:
    from support.kustomization import Object

PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8").partition("\n## Kubernetes\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def parts() -> list[Object]:
    return read(K8S / "overlays" / "production").objects


def rows(heading: str) -> list[list[str]]:
    """Of the first table under a heading."""
    section = PAGE.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return cells[2:]


def test_the_table_of_secrets_names_each_secret_its_keys_and_its_readers(parts: list[Object]) -> None:
    needed: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for workload in workloads(parts, *SERVICES):
        for reference in variables(workload).values():
            if isinstance(reference, dict):
                keys, optional, readers = needed.setdefault(reference["name"], (set(), set(), set()))
                (optional if reference.get("optional") else keys).add(reference["key"])
                readers.add(service_of(workload))
    told = {
        row[0].strip("`"): (
            set(re.findall("`([^`]+)`", row[1])),
            set(re.findall("`([^`]+)`", row[2])),
            set(row[3].split(", ")),
        )
        for row in rows("Secrets")
    }
    assert told.pop("upstream")[2] == {"inference", "as files"}
    assert told == needed
    entries = {one["spec"]["target"]["name"]: one["spec"]["dataFrom"] for one in of_kind(parts, "ExternalSecret")}
    assert entries == {name: [{"extract": {"key": f"spillway/{name}"}}] for name in [*needed, "upstream"]}


def test_the_table_of_the_stages_of_a_stop_is_that_of_the_pods(parts: list[Object]) -> None:
    expected = {}
    for workload in workloads(parts, *SERVICES):
        prefix, seen = service_of(workload).upper(), variables(workload)
        pre_stop = container_of(workload).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        stages = ("DRAIN_DELAY_S", "DRAIN_TIMEOUT_S", "FLUSH_TIMEOUT_S", "TERMINATION_GRACE_S")
        expected[service_of(workload)] = [
            pre_stop["sleep"]["seconds"],
            *(int(seen[f"{prefix}_{stage}"]) for stage in stages),
            pod_of(workload)["terminationGracePeriodSeconds"],
        ]
    assert {name: [int(cell) for cell in cells] for name, *cells in rows("Stopping")} == expected


def test_every_folder_and_component_that_the_page_names_exists_and_none_is_left_out() -> None:
    folders = re.findall(r"(?m)^\| `([a-z/]+)` \|", PAGE.partition("\n### ")[0])
    assert folders == ["base", "components", "next", "overlays/local", "overlays/production"]
    assert all((K8S / folder).is_dir() for folder in folders)
    components = {path.name for path in (K8S / "components").iterdir()}
    assert {name for name in components if not re.search(rf"\b{name}\b", PAGE)} == set()
    assert set(re.findall(r"components/([a-z-]+)", PAGE)) <= components
