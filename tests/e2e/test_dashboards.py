"""Every panel and every rule, asked of a real Prometheus that looks at the running stack, answers with data."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml

from e2e.up_process import CHECKOUT
from support.platform import eventually
from support.prometheus import Prometheus, needs_prometheus, prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.conftest import Measured

pytestmark = [pytest.mark.e2e, needs_prometheus]

DASHBOARDS = sorted((CHECKOUT / "infra/compose/grafana/dashboards").glob("*.json"))
RULES = sorted((CHECKOUT / "infra/compose/prometheus/rules").glob("*.yml"))
_GROUPING = re.compile(r"\b(?:by|on|group_left) \([^)]*\)")
_SELECTOR = re.compile(r"\b(?:up|spillway[_:][\w:]+|http_\w+)\b(?:\{[^}]*\})?")


def panel_queries(path: Path) -> list[tuple[str, str]]:
    """Each panel's title with each of its expressions."""
    panels = json.loads(path.read_bytes())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]


def variable_queries() -> list[str]:
    lists = [json.loads(path.read_bytes())["templating"]["list"] for path in DASHBOARDS]
    return [variable["query"]["query"] for variables in lists for variable in variables]


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def selectors(expression: str) -> list[str]:
    found: list[str] = _SELECTOR.findall(_GROUPING.sub("", expression))
    return found


def as_grafana_asks(expression: str) -> str:
    """With the variables' values for All, and a window that holds the whole test."""
    return re.sub(r"\$\w+", ".*", expression.replace("$__rate_interval", "5m"))


@pytest.fixture(scope="module")
def watched(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, str]]:
    """What looks at the stack, and the URL of its traces, after one of everything has happened twice."""
    directory: Path = tmp_path_factory.mktemp("watched")
    addresses = {service: f"127.0.0.1:{port}" for service, port in measured.pages.items()}
    traffic = measured.traffic
    with prometheus(addresses, directory) as running:
        traffic.everything()
        running.scraped_again(2)
        traffic.everything()  # a rate is what grew between two looks
        running.scraped_again(2)
        assert {200, 202, 400, 401, 404, 429, 502, 503} <= traffic.statuses, traffic.statuses
        yield running, measured.traces_url


@pytest.fixture
def watching(watched: tuple[Prometheus, str]) -> Prometheus:
    return watched[0]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_shows_something(watching: Prometheus, path: Path) -> None:
    empty = []
    for title, expression in panel_queries(path):
        values = [float(one["value"][1]) for one in watching.query(as_grafana_asks(expression))]
        if all(math.isnan(value) for value in values):
            empty.append((title, expression))
    assert empty == []


def test_the_points_on_a_latency_panel_lead_to_traces_that_are_there(watched: tuple[Prometheus, str]) -> None:
    watching, traces_url = watched
    found = watching.exemplars("http_server_request_duration_seconds_bucket")
    assert found
    traces = {exemplar["labels"]["trace_id"] for exemplar in found}
    known = httpx2.get(f"{traces_url}/traces", trust_env=False).json()
    assert traces <= {trace["trace_id"] for trace in known}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_graph_that_asks_for_points_has_some(watching: Prometheus, path: Path) -> None:
    targets = [target for panel in json.loads(path.read_bytes())["panels"] for target in panel.get("targets", ())]
    asked = {target["expr"] for target in targets if target["exemplar"]}
    assert asked
    assert {expression for expression in asked if not watching.exemplars(as_grafana_asks(expression))} == set()


@pytest.mark.parametrize("query", variable_queries())
def test_every_variable_has_values_to_choose_from(watching: Prometheus, query: str) -> None:
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert asked is not None
    metric, label = asked.groups()
    values = {one["metric"].get(label) for one in watching.query(f"count by ({label}) ({metric})")}
    assert values - {None}
    assert len(values) < 20


def test_prometheus_evaluates_every_rule(watching: Prometheus) -> None:
    def all_evaluated() -> list[dict[str, Any]] | None:
        found = watching.rules()
        return found if all(rule["health"] != "unknown" for rule in found) else None

    evaluated = eventually(all_evaluated)
    assert [rule for rule in evaluated if rule["health"] != "ok"] == []
    assert len(evaluated) == len(rules())


@pytest.mark.parametrize("record", sorted({rule["record"] for rule in rules() if "record" in rule}))
def test_every_recorded_series_exists_for_both_objectives(watching: Prometheus, record: str) -> None:
    assert {one["metric"]["slo"] for one in watching.query(record)} == {"availability", "latency"}


@pytest.mark.parametrize("name", sorted({rule["alert"] for rule in rules() if "alert" in rule}))
def test_what_an_alert_looks_at_is_there(watching: Prometheus, name: str) -> None:
    expressions = [rule["expr"] for rule in rules() if rule.get("alert") == name]
    looked_at = {selector for expression in expressions for selector in selectors(expression)}
    assert looked_at
    assert {selector for selector in looked_at if not watching.query(selector)} == set()
