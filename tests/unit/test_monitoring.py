"""What Prometheus and Grafana are given: provisioning that fits together, alerts that have a runbook and a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra/compose/prometheus"
GRAFANA = ROOT / "infra/compose/grafana"
OPERATIONS = ROOT / "docs/operations.md"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "rules/tests").glob("*.yml"))
SERVICES = {"gateway", "inference", "cache", "jobs", "worker"}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def alerts() -> list[dict[str, Any]]:
    groups = [group for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def runbooks() -> dict[str, str]:
    """The text of each section below Runbooks, by its title."""
    of_runbooks = OPERATIONS.read_text().partition("\n## Runbooks\n")[2].partition("\n## ")[0]
    title, *_ = parts = re.split(r"^### (.+)$", of_runbooks, flags=re.MULTILINE)
    assert "### " not in title
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose/compose.yaml").read_text())["services"]
    return services


def networks(service: str) -> set[str]:
    return set(compose()[service]["networks"])


def aliases(service: str, network: str) -> list[str]:
    found = compose()[service]["networks"]
    return found[network].get("aliases", []) if isinstance(found, dict) else []


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert set(runbooks()) == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("name", sorted(runbooks()))
def test_a_runbook_says_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    assert re.findall(r"^\*\*(.+?)\.\*\*", runbooks()[name], re.MULTILINE) == ["Means", "Look at", "Do"]


def test_every_alert_has_a_severity_a_summary_and_the_address_of_its_runbook() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    cases = [
        case
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {alert["alert"] for alert in alerts()}
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == {alert["alert"] for alert in alerts()}


def test_every_panel_that_a_runbook_names_exists() -> None:
    titles = " ".join(path.read_text() for path in (GRAFANA / "dashboards").glob("*.json"))
    italics = re.compile(r"(?<!\*)\*(?!\*)([^*]+)\*(?!\*)")
    named = {" ".join(name.split()) for text in runbooks().values() for name in italics.findall(text)}
    assert {name for name in named if f'"title": "{name}"' not in titles} == {"Status, Targets"}  # Prometheus' own


@needs_promtool
def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_service_is_scraped_under_its_own_name_with_all_its_replicas() -> None:
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    found = {
        job["job_name"]: [target for each in job["static_configs"] for target in each["targets"]] for job in scraped
    }
    assert found.keys() == {*SERVICES, "traefik", "collector", "jaeger"}
    for name, targets in found.items():
        replicas = sorted(host for host in compose() if host.removesuffix("-1").removesuffix("-2") == name)
        assert sorted(targets) == [f"{host}:9464" for host in replicas]


def test_grafana_knows_prometheus_and_jaeger_and_links_exemplars_to_traces() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/spillway.yaml").read_text())["datasources"]
    by_uid = {source["uid"]: source for source in provisioned}
    assert {uid: source["type"] for uid, source in by_uid.items()} == {"prometheus": "prometheus", "jaeger": "jaeger"}
    (link,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (link["name"], link["datasourceUid"]) == ("trace_id", "jaeger")
    scrapes = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert by_uid["prometheus"]["jsonData"]["timeInterval"] == scrapes["scrape_interval"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_compose_stack_lets_prometheus_find_every_replica_of_a_service(name: str) -> None:
    prometheus = networks("prometheus")
    variable = f"{name.upper()}_METRICS_PORT"
    replicas = {found: each for found, each in compose().items() if variable in (each.get("environment") or {})}
    assert replicas
    for found, replica in replicas.items():
        assert replica["environment"][variable] == "9464"
        assert replica["environment"][f"{name.upper()}_METRICS_HOST"] == "0.0.0.0"  # noqa: S104  # within its container
        reached_as = {found, *(name for network in prometheus & networks(found) for name in aliases(found, network))}
        assert name in reached_as


def test_the_compose_stack_lets_grafana_reach_both_its_sources() -> None:
    assert networks("grafana") & networks("prometheus")
    assert networks("grafana") & networks("jaeger")


def test_the_compose_stack_mounts_what_is_here_where_grafana_and_prometheus_look() -> None:
    services = compose()
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/spillway.yaml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    assert "./prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]
