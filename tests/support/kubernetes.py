"""What a set of Kubernetes objects says about the services: their pods, settings, ports and who may reach whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import cache.settings
import gateway.settings
import inference.settings
import jobs.settings
from simulator.settings import SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_settings import BaseSettings

    from common.settings import ServiceSettings
    from support.kustomization import Object

SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": gateway.settings.Settings,
    "inference": inference.settings.Settings,
    "cache": cache.settings.Settings,
    "jobs": jobs.settings.Settings,
    "worker": jobs.settings.WorkerSettings,
}
SERVICES = tuple(SETTINGS)
PREFIXED: dict[str, type[BaseSettings]] = {**SETTINGS, "simulator": SimulatorSettings}
WORKLOADS = ("Deployment", "StatefulSet")
NAME = "app.kubernetes.io/name"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def pod_of(workload: Object) -> Any:
    return workload["spec"]["template"]["spec"]


def labels_of(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def container_of(workload: Object) -> Any:
    (container,) = pod_of(workload)["containers"]
    return container


def service_of(workload: Object) -> str:
    """The service whose pods these are, whichever track they are of."""
    return labels_of(workload)[NAME]


def workloads(objects: list[Object], *services: str) -> list[Object]:
    return [one for one in of_kind(objects, *WORKLOADS) if not services or service_of(one) in services]


def variables(workload: Object) -> dict[str, Any]:
    """Each environment variable: a text, or the reference to a secret."""
    entries = container_of(workload).get("env", [])
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names)), "a variable stands there twice"
    return {entry["name"]: entry.get("value", entry.get("valueFrom", {}).get("secretKeyRef")) for entry in entries}


def environment(workload: Object, secrets: dict[str, dict[str, str]]) -> dict[str, str]:
    """What the process would see. A secret that is not there is none if it is optional, else a `KeyError`."""
    seen = {}
    for name, value in variables(workload).items():
        if isinstance(value, str):
            seen[name] = value
        elif not value.get("optional") or value["key"] in secrets.get(value["name"], {}):
            seen[name] = secrets[value["name"]][value["key"]]
    return seen


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    """As Kubernetes reads a label selector; an empty one selects everything, none nothing."""
    if selector is None:
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def selected(objects: list[Object], selector: dict[str, Any] | None) -> list[Object]:
    return [one for one in workloads(objects) if selects(selector, labels_of(one))]


def ports_of(workload: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}


Arrow = tuple[str, str, int]
"""Who (the name of its pods), whom (the same, a namespace in brackets, or a network), at which port."""


def arrows(objects: list[Object], direction: str) -> set[Arrow]:
    """What the policies let through, seen by those who send (`Egress`) or by those who are reached (`Ingress`)."""
    key, peers_key = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    found = set()
    for policy in of_kind(objects, "NetworkPolicy"):
        spec = policy["spec"]
        for one in selected(objects, spec["podSelector"]):
            for rule in spec.get(key, []):
                for peer in rule[peers_key]:
                    for name in _names(objects, peer):
                        for port in rule["ports"]:
                            at = port["port"]
                            number = ports_of(one)[at] if isinstance(at, str) else at
                            ends = (service_of(one), name) if key == "egress" else (name, service_of(one))
                            found.add((*ends, number))
    return found


def _names(objects: list[Object], peer: dict[str, Any]) -> Iterator[str]:
    if "ipBlock" in peer:
        yield peer["ipBlock"]["cidr"]
    elif "namespaceSelector" in peer:
        yield f"[{peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}]"
    else:
        yield from {service_of(one) for one in selected(objects, peer["podSelector"])}


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "kb": 2**10, "mb": 2**20, "gb": 2**30, "": 1}


def quantity_bytes(text: str) -> int:
    """Of Kubernetes (`512Mi`) and of Valkey's configuration (`512mb`)."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|kb|mb|gb|)", text)
    assert match, text
    return int(match[1]) * _UNITS[match[2]]
