"""The dashboards that are committed: those of the source, complete, and bounded in what they ask."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from devstack import dashboards
from devstack.cli import main

COMMITTED = Path(__file__).parents[3] / "infra/compose/grafana/dashboards"
FILES = sorted(COMMITTED.glob("*.json"))
_BOUNDED = {"job", "gen_ai_request_model", "endpoint"}
"""Labels whose values come from configuration or from our routes."""
OUTSIDE = re.compile(r"spillway_jobs_queue_wait_seconds")
"""A job's wait is over, and measured, before the trace of its run begins."""


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in read(path)["panels"] if panel["type"] != "row"]


def test_the_committed_dashboards_are_those_of_the_source() -> None:
    committed = {path.name: path.read_bytes() for path in FILES}
    assert committed == dashboards.documents(), "./justw dashboards writes them"


def test_the_command_writes_each_dashboard(tmp_path: Path) -> None:
    assert main(["dashboards", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FILES}


def test_the_uids_are_fixed_for_links_and_bookmarks_depend_on_them() -> None:
    assert {path.name: read(path)["uid"] for path in FILES} == {
        "overview.json": "spillway-overview",
        "models.json": "spillway-models",
        "cache-limits.json": "spillway-cache-limits",
        "jobs.json": "spillway-jobs",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_has_a_unit_and_says_which_question_it_answers(path: Path) -> None:
    lacking = [
        panel["title"]
        for panel in panels(path)
        if not panel["fieldConfig"]["defaults"].get("unit") or "?" not in panel["description"] or not panel["targets"]
    ]
    assert lacking == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_panel_shares_an_id_a_title_or_a_place_with_another(path: Path) -> None:
    every = read(path)["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in panels(path)}) == len(panels(path))
    places = [
        (x, y)
        for panel in every
        for position in [panel["gridPos"]]
        for x, y in itertools.product(
            range(position["x"], position["x"] + position["w"]), range(position["y"], position["y"] + position["h"])
        )
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_graphs_of_latencies_ask_for_exemplars_and_nothing_else_does(path: Path) -> None:
    for panel in panels(path):
        for target in panel["targets"]:
            is_graph_of_one = panel["type"] == "timeseries" and "histogram_quantile" in target["expr"]
            assert target["exemplar"] == (is_graph_of_one and not OUTSIDE.search(target["expr"])), panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_query_asks_the_provisioned_prometheus(path: Path) -> None:
    expected = {"type": "prometheus", "uid": "prometheus"}
    asked = [target["datasource"] for panel in panels(path) for target in panel["targets"]]
    assert [*asked, *(variable["datasource"] for variable in read(path)["templating"]["list"])] == [expected] * (
        len(asked) + len(read(path)["templating"]["list"])
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variables_list_the_values_of_bounded_labels_and_each_is_used(path: Path) -> None:
    expressions = " ".join(target["expr"] for panel in panels(path) for target in panel["targets"])
    variables = read(path)["templating"]["list"]
    for variable in variables:
        label = re.fullmatch(r"label_values\(\w+, (\w+)\)", variable["query"]["query"])
        assert label is not None
        assert label[1] in _BOUNDED
    used = set(re.findall(r"\$([a-z]\w*)", expressions))
    assert used == {variable["name"] for variable in variables}


def test_the_panels_show_every_metric_of_the_catalogue_and_ask_for_no_other() -> None:
    asked = " ".join(target["expr"] for path in FILES for panel in panels(path) for target in panel["targets"])
    words = set(re.findall(r"\b(?:spillway|http|gen_ai|db|process)_\w+", asked)) - labels()
    assert words - set(series()) == set()
    assert set(series().values()) - {series()[word] for word in words} == set()


def series() -> dict[str, str]:
    """The metric of each name that Prometheus knows, by the catalogue in docs/operations.md."""
    of_prometheus: dict[str, str] = {}
    for metric, unit, kind in re.findall(r"^\| `([a-z_.]+)` \| (\S+) \| (\w+) \|", catalogue(), re.MULTILINE):
        base = metric.replace(".", "_") + {"s": "_seconds", "By": "_bytes", "usd": "_usd"}.get(unit, "")
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}[kind]
        of_prometheus |= {base + suffix: metric for suffix in suffixes}
    assert of_prometheus
    return of_prometheus


def labels() -> set[str]:
    columns = [row.split("|")[5] for row in catalogue().splitlines() if row.startswith("| `")]
    return {label.replace(".", "_") for column in columns for label in re.findall(r"`([a-z_.]+)`", column)}


def catalogue() -> str:
    text = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    return text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
