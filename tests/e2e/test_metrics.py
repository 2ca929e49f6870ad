"""The catalogue of docs/operations.md and what a running stack shows are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import pytest

from e2e.up_process import CHECKOUT
from support.readings import families

if TYPE_CHECKING:
    from e2e.conftest import Measured

pytestmark = pytest.mark.e2e

EVERYBODY = ("gateway", "inference", "cache", "jobs", "worker")
_UNITS = {"s": "_seconds", "By": "_bytes", "usd": "_usd"}
_ROW = re.compile(
    r"^\| `([a-z_.]+)` \| (\S+) \| (counter|gauge|histogram) \| ([a-z, ]+) \| (.+?) \| .+ \|$", re.MULTILINE
)


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    kind: str
    services: tuple[str, ...]
    labels: frozenset[str]

    @property
    def shown(self) -> str:
        """Its name on the page of Prometheus, but for `_total`, which is no part of a family's."""
        return self.name.replace(".", "_") + _UNITS.get(self.unit, "")


def catalogue() -> list[Row]:
    text = (CHECKOUT / "docs/operations.md").read_text()
    section = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows: list[Row] = []
    for name, unit, kind, services, attributes in _ROW.findall(section):
        labels = frozenset(label.replace(".", "_") for label in re.findall(r"`([^`]+)`", attributes))
        if "as above" in attributes:
            labels |= rows[-1].labels
        rows.append(Row(name, unit, kind, EVERYBODY if services == "all" else tuple(services.split(", ")), labels))
    assert len(rows) == section.count("\n| `")
    return rows


@pytest.fixture(scope="module")
def shown(measured: Measured) -> dict[str, dict[str, tuple[str, set[str]]]]:
    """Of each service each metric that it shows, with its kind and its labels."""
    if not measured.traffic.statuses:
        measured.traffic.everything()
    for url in measured.urls.values():
        assert httpx2.get(f"{url}/nowhere", trust_env=False).status_code == 404
    return {
        service: {
            family.name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
            for family in families(f"http://127.0.0.1:{port}/metrics")
            if family.samples
        }
        for service, port in measured.pages.items()
    }


@pytest.mark.parametrize("row", catalogue(), ids=lambda row: row.name)
def test_what_the_catalogue_says_is_there(shown: dict[str, dict[str, tuple[str, set[str]]]], row: Row) -> None:
    for service in row.services:
        assert row.shown in shown[service], service
        kind, labels = shown[service][row.shown]
        assert kind == row.kind
        assert labels <= row.labels
    assert row.labels == {label for those in shown.values() for label in those.get(row.shown, ("", set()))[1]}


def test_every_metric_says_what_it_is(measured: Measured) -> None:
    pages = [families(f"http://127.0.0.1:{port}/metrics") for port in measured.pages.values()]
    assert {family.name for page in pages for family in page if not family.documentation} == set()


@pytest.mark.parametrize("service", EVERYBODY)
def test_what_is_there_stands_in_the_catalogue(shown: dict[str, dict[str, tuple[str, set[str]]]], service: str) -> None:
    assert shown[service].keys() <= {row.shown for row in catalogue() if service in row.services}
