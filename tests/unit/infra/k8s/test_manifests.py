"""What the manifests say is true of the services: settings, secrets, ports, selectors, and the stages of a stop."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from common.server import PARTING_S
from common.settings import BadSettingsError, load
from support.kubernetes import (
    NAME,
    PREFIXED,
    SERVICES,
    SETTINGS,
    container_of,
    environment,
    labels_of,
    of_kind,
    pod_of,
    ports_of,
    quantity_bytes,
    selected,
    selects,
    service_of,
    variables,
    workloads,
)
from support.kustomization import ROOT

if TYPE_CHECKING:
    from support.kustomization import Object

Secrets = dict[str, dict[str, str]]

SHARED = {
    "GATEWAY_CACHE_HOP_SECRET": "CACHE_HOP_SECRET",
    "GATEWAY_INFERENCE_HOP_SECRET": "INFERENCE_HOP_SECRET",
    "GATEWAY_JOBS_HOP_SECRET": "JOBS_HOP_SECRET",
    "WORKER_GATEWAY_HOP_SECRET": "GATEWAY_HOP_SECRET",
    "WORKER_SEAL_SECRET": "JOBS_SEAL_SECRET",
    "WORKER_STATE_URL": "JOBS_STATE_URL",
    "JOBS_STATE_URL": "GATEWAY_STATE_URL",
}
"""What two processes have to agree on (.env.example: "equals")."""
METRICS = {"METRICS_HOST": "0.0.0.0", "METRICS_PORT": "9464"}  # noqa: S104  # a pod listens to its node


def test_every_service_has_all_that_belongs_to_it(objects: list[Object]) -> None:
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"):
        assert set(SERVICES) <= {one["metadata"]["name"] for one in of_kind(objects, kind)}, kind
    scaled = [
        one["spec"]["scaleTargetRef"]["name"] for one in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert set(SERVICES) <= set(scaled)
    assert len(scaled) == len(set(scaled)), "two autoscalers pull at one Deployment"


def test_every_variable_is_a_setting_of_its_service(objects: list[Object]) -> None:
    for workload in workloads(objects, *PREFIXED):
        service = service_of(workload)
        for name in variables(workload):
            prefix, _, rest = name.partition("_")
            assert prefix == service.upper(), f"{service} does not read {name}"
            known = {field.upper() for field in PREFIXED[service].model_fields}
            assert rest in known, f"{name} is no setting"


def test_the_services_start_with_what_their_pods_say(
    objects: list[Object], secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Required ones included, and nested stages of a stop: the services' own settings judge."""
    for workload in workloads(objects, *SERVICES):
        with monkeypatch.context() as patched:
            for name, value in environment(workload, secrets).items():
                patched.setenv(name, value)
            settings = load(SETTINGS[service_of(workload)])
        assert ports_of(workload) == {"http": settings.port, "metrics": settings.metrics_port}


def test_a_service_listens_to_others_than_itself(objects: list[Object]) -> None:
    """By its image, or else by its pod: 127.0.0.1, the default, would be a pod that nobody reaches."""
    for workload in workloads(objects, *SERVICES):
        service = service_of(workload)
        folder = "jobs" if service == "worker" else service
        of_image = re.findall(r"\b([A-Z]+_HOST)=(\S+)", (ROOT / "services" / folder / "Dockerfile").read_text())
        assert (dict(of_image) | variables(workload))[f"{service.upper()}_HOST"] == "0.0.0.0"  # noqa: S104  # that is the point


def test_the_command_of_a_pod_is_a_module_of_its_image(objects: list[Object]) -> None:
    for workload in workloads(objects, *SERVICES):
        container = container_of(workload)
        assert "command" not in container
        assert container.get("args", [service_of(workload)]) == [
            "jobs.worker" if service_of(workload) == "worker" else service_of(workload)
        ]


@pytest.mark.parametrize(("theirs", "ours"), SHARED.items())
def test_what_two_services_share_is_one_entry_of_one_secret(objects: list[Object], theirs: str, ours: str) -> None:
    for left in workloads(objects, theirs.partition("_")[0].lower()):
        for right in workloads(objects, ours.partition("_")[0].lower()):
            assert variables(left)[theirs] == variables(right)[ours]


def test_every_secret_has_a_source_and_every_entry_that_is_needed(objects: list[Object], secrets: Secrets) -> None:
    sources = {one["spec"]["target"]["name"] for one in of_kind(objects, "ExternalSecret")} or set(secrets)
    for workload in workloads(objects):
        for reference in variables(workload).values():
            if isinstance(reference, dict):
                assert reference["name"] in sources
                assert reference.get("optional") or reference["key"] in secrets[reference["name"]]
    volumes = [volume for one in workloads(objects) for volume in pod_of(one).get("volumes", []) if "secret" in volume]
    assert all(volume["secret"]["optional"] for volume in volumes)


def test_no_secret_is_read_by_a_service_that_need_not_know_it(objects: list[Object]) -> None:
    readers: dict[str, set[str]] = {}
    for workload in workloads(objects, *SERVICES):
        for reference in variables(workload).values():
            if isinstance(reference, dict):
                readers.setdefault(reference["name"], set()).add(service_of(workload))
    assert readers == {
        "gateway": {"gateway"},
        "hop-cache": {"gateway", "cache"},
        "hop-inference": {"gateway", "inference"},
        "hop-jobs": {"gateway", "jobs"},
        "hop-gateway": {"gateway", "worker"},
        "seal-jobs": {"jobs", "worker"},
        "store-state": {"gateway", "jobs", "worker"},
        "store-limits": {"gateway"},
        "store-cache": {"cache"},
    }


def test_every_config_map_exists_and_a_folder_is_mounted_not_a_file(objects: list[Object]) -> None:
    known = {one["metadata"]["name"] for one in of_kind(objects, "ConfigMap")}
    for workload in workloads(objects):
        for volume in pod_of(workload).get("volumes", []):
            assert volume.get("configMap", {"name": "models"})["name"] in known
        for mount in container_of(workload).get("volumeMounts", []):
            assert "subPath" not in mount, "a file that is mounted alone is never renewed"
            assert mount["name"] in {
                *(volume["name"] for volume in pod_of(workload).get("volumes", [])),
                *(claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])),
            }
        for source in container_of(workload).get("envFrom", []):
            assert source["configMapRef"]["optional"]


def test_the_catalogue_and_its_secrets_are_where_inference_looks(objects: list[Object]) -> None:
    for workload in workloads(objects, "inference"):
        mounts = {mount["name"]: mount["mountPath"] for mount in container_of(workload)["volumeMounts"]}
        (models,) = (one for one in of_kind(objects, "ConfigMap") if "models.yaml" in one["data"])
        assert models["metadata"]["name"] == "models"
        assert variables(workload)["INFERENCE_MODELS_FILE"] == f"{mounts['models']}/models.yaml"
        assert variables(workload)["INFERENCE_SECRETS_DIR"] == mounts["upstream"]


def test_no_variable_comes_from_kubernetes_own_service_links(
    objects: list[Object], secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Service "gateway" makes GATEWAY_PORT=tcp://… in every pod of its namespace, which is no port."""
    assert all(pod_of(one)["enableServiceLinks"] is False for one in workloads(objects))
    workload = workloads(objects, "gateway")[0]
    for name, value in environment(workload, secrets).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GATEWAY_PORT", "tcp://10.96.0.7:8080")
    with pytest.raises(BadSettingsError, match="GATEWAY_PORT"):
        load(SETTINGS["gateway"])


def test_the_stages_of_a_stop_nest_in_the_pods_grace(objects: list[Object], secrets: Secrets) -> None:
    for workload in workloads(objects, *SERVICES):
        seen = environment(workload, secrets)
        prefix = service_of(workload).upper()
        delay_s, drain_s, flush_s, grace_s = (
            float(seen[f"{prefix}_{stage}_S"])
            for stage in ("DRAIN_DELAY", "DRAIN_TIMEOUT", "FLUSH_TIMEOUT", "TERMINATION_GRACE")
        )
        pre_stop = container_of(workload).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        pre_stop_s = pre_stop["sleep"]["seconds"]
        assert delay_s + drain_s + flush_s < grace_s
        assert pre_stop_s + grace_s <= pod_of(workload)["terminationGracePeriodSeconds"]
        if service_of(workload) == "worker":
            assert pre_stop_s + delay_s == 0, "a worker gives its jobs back at once"
        else:
            assert pre_stop_s >= 5, "endpoints are not removed everywhere yet"
            assert delay_s > PARTING_S, "clients still hold connections"


def test_the_longest_stream_fits_into_the_drain_of_both_services_that_carry_it(objects: list[Object]) -> None:
    longest_s = SETTINGS["gateway"].model_fields["stream_timeout_s"].default
    for workload in workloads(objects, "gateway", "inference"):
        prefix = service_of(workload).upper()
        assert float(variables(workload)[f"{prefix}_DRAIN_TIMEOUT_S"]) >= longest_s


def test_probes_ask_what_the_service_answers_and_liveness_asks_no_dependency(objects: list[Object]) -> None:
    for workload in workloads(objects, *SERVICES):
        service = "jobs" if service_of(workload) == "worker" else service_of(workload)
        paths = json.loads((ROOT / "docs" / "openapi" / f"{service}.json").read_text())["paths"]
        container = container_of(workload)
        asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: get["path"] for name, get in asked.items()} == {
            "startup": "/livez", "liveness": "/livez", "readiness": "/readyz",
        }  # fmt: skip
        assert {get["path"] for get in asked.values()} <= set(paths)
        assert {get["port"] for get in asked.values()} == {"http"}


def test_every_selector_matches_pods_and_only_those_of_its_service(objects: list[Object]) -> None:
    for workload in workloads(objects):
        assert selects(workload["spec"]["selector"], labels_of(workload))
        for constraint in pod_of(workload).get("topologySpreadConstraints", []):
            assert selected(objects, constraint["labelSelector"]) == [workload]
    for service in of_kind(objects, "Service"):
        found = selected(objects, {"matchLabels": service["spec"]["selector"]})
        assert [one["metadata"]["name"] for one in found] == [service["metadata"]["name"]]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        found = selected(objects, budget["spec"]["selector"])
        assert {service_of(one) for one in found} == {budget["metadata"]["name"]}
    for monitor in of_kind(objects, "PodMonitor"):
        found = selected(objects, monitor["spec"]["selector"])
        assert {service_of(one) for one in found} >= set(SERVICES)


def test_two_workloads_never_select_each_others_pods(objects: list[Object]) -> None:
    for workload in workloads(objects):
        assert selected(objects, workload["spec"]["selector"]) == [workload]


def test_every_port_that_is_named_is_one_of_the_pods_behind_it(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        (behind,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert ports_of(behind)[port["targetPort"]] == port["port"]
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            names = {port["port"] for port in rule["ports"]}
            assert all(names <= set(ports_of(one)) for one in selected(objects, policy["spec"]["podSelector"]))
    for monitor in of_kind(objects, "PodMonitor"):
        ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        assert all(ports <= set(ports_of(one)) for one in workloads(objects, *SERVICES))


def test_metrics_are_served_at_the_port_that_is_scraped(objects: list[Object]) -> None:
    for workload in workloads(objects, *SERVICES):
        prefix = service_of(workload).upper()
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        assert {name: variables(workload)[f"{prefix}_{name}"] for name in METRICS} == METRICS
        assert ports_of(workload)["metrics"] == int(annotations["prometheus.io/port"]) == int(METRICS["METRICS_PORT"])
        assert annotations["prometheus.io/scrape"] == "true"


def test_every_url_of_another_service_is_a_service_and_its_port(objects: list[Object]) -> None:
    known = {
        (one["metadata"]["name"], port["port"]) for one in of_kind(objects, "Service") for port in one["spec"]["ports"]
    }
    for workload in workloads(objects, *SERVICES):
        for value in variables(workload).values():
            if isinstance(value, str) and (match := re.fullmatch(r"http://([a-z-]+):(\d+)", value)):
                assert (match[1], int(match[2])) in known


def test_every_pod_is_restricted(objects: list[Object]) -> None:
    """Source: kubernetes.io/docs/concepts/security/pod-security-standards, "Restricted"."""
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in workloads(objects):
        pod, container = pod_of(workload), container_of(workload)
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        allowed = {"configMap", "secret", "emptyDir", "name"}
        assert all(set(volume) <= allowed for volume in pod.get("volumes", []))
        assert pod["automountServiceAccountToken"] is False


def test_no_account_of_a_service_has_a_token(objects: list[Object]) -> None:
    accounts = {one["metadata"]["name"]: one for one in of_kind(objects, "ServiceAccount")}
    for workload in workloads(objects, *SERVICES):
        assert pod_of(workload)["serviceAccountName"] == service_of(workload)
        assert accounts[service_of(workload)]["automountServiceAccountToken"] is False


def test_memory_is_bounded_and_cpu_is_not(objects: list[Object]) -> None:
    for workload in workloads(objects):
        resources = container_of(workload)["resources"]
        assert set(resources["limits"]) == {"memory"}
        assert quantity_bytes(resources["requests"]["memory"]) <= quantity_bytes(resources["limits"]["memory"])
        assert "cpu" in resources["requests"]
    for workload in workloads(objects, "gateway"):
        limit = quantity_bytes(container_of(workload)["resources"]["limits"]["memory"])
        fields = SETTINGS["gateway"].model_fields
        promised = sum(
            fields[name].default for name in ("max_body_bytes_in_flight", "cache_put_queue_bytes", "hot_entries_bytes")
        )
        assert promised < limit * 0.85, "beyond it batch work is refused"


def test_pods_spread_over_zones_and_nodes(objects: list[Object]) -> None:
    for workload in workloads(objects, *SERVICES):
        constraints = pod_of(workload)["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_a_share_of_a_limit_is_for_as_many_gateways_as_may_run(objects: list[Object]) -> None:
    for workload in workloads(objects, "gateway"):
        (scaling,) = (
            one["spec"]
            for one in of_kind(objects, "HorizontalPodAutoscaler")
            if one["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]
        )
        expected = int(variables(workload)["GATEWAY_EXPECTED_REPLICAS"])
        assert scaling["minReplicas"] <= expected <= scaling["maxReplicas"]


def test_no_deployment_that_an_autoscaler_owns_says_its_number_of_replicas(objects: list[Object]) -> None:
    assert all("replicas" not in one["spec"] for one in workloads(objects, *SERVICES))


def test_a_roll_out_takes_no_pod_away_before_its_successor_is_ready(objects: list[Object]) -> None:
    for workload in workloads(objects, *SERVICES):
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_every_object_says_whose_it_is(objects: list[Object]) -> None:
    for one in workloads(objects):
        assert labels_of(one)["app.kubernetes.io/part-of"] == "spillway"
        assert one["metadata"]["labels"][NAME] == service_of(one)


def test_settings_that_clash_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of the tests above: a drain that does not fit is refused by the service itself."""
    monkeypatch.setenv("CACHE_STORE_URL", "redis://store:6379/0")
    monkeypatch.setenv("CACHE_HOP_SECRET", "x" * 32)
    monkeypatch.setenv("CACHE_TERMINATION_GRACE_S", "40")
    with pytest.raises((BadSettingsError, ValidationError), match="CACHE_TERMINATION_GRACE_S"):
        load(SETTINGS["cache"])
