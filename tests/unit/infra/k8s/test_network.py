"""Who may talk to whom: the arrows of docs/architecture.md and no other, and never a metadata service."""

from __future__ import annotations

import ipaddress
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from common.http_client import KEEPALIVE_S
from common.server import PARTING_S
from support.kubernetes import (
    NAME,
    SERVICES,
    arrows,
    labels_of,
    of_kind,
    ports_of,
    selected,
    selects,
    service_of,
    variables,
    workloads,
)
from support.kustomization import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.kubernetes import Arrow
    from support.kustomization import Object

INNER: set[Arrow] = {
    ("gateway", "cache", 8082),
    ("gateway", "inference", 8081),
    ("gateway", "jobs", 8083),
    ("worker", "gateway", 8080),
}
STORES = {"gateway": ("state", "limits"), "cache": ("cache",), "jobs": ("state",), "worker": ("state",)}
"""Which service may touch which store is fixed."""
EDGE = ("[traefik]", "gateway", 8080)
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254", "fe80::a9fe:a9fe", "168.63.129.16")
"""Of the clouds that publish theirs; the last one is no private address."""

INSIDE = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "127.0.0.1", "100.64.0.1", "::1", "::ffff:a00:1", "fd00::1")
NOWHERE = (("PUT", "/generate"), ("GET", "/"), ("GET", "/metrics"), ("OPTIONS", "/v1/jobs"), ("POST", "/v1/jobsx"))


def is_internet(arrow: Arrow) -> bool:
    return arrow[1] in {"0.0.0.0/0", "::/0"}


def test_every_pod_is_denied_everything_that_is_not_allowed(objects: list[Object]) -> None:
    (deny,) = (one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_services_may_send_along_the_arrows_of_the_architecture_and_nowhere_else(objects: list[Object]) -> None:
    of_cluster = {arrow for arrow in arrows(objects, "Egress") if arrow[0] in SERVICES and not is_internet(arrow)}
    has_stores = any(service_of(one) == "valkey-state" for one in workloads(objects))
    expected = set(INNER) | {(name, "[kube-system]", 53) for name in SERVICES}
    if has_stores:
        expected |= {(name, f"valkey-{store}", 6379) for name, stores in STORES.items() for store in stores}
        expected |= {("inference", "simulator", 8090)}
    else:
        expected |= {(name, "10.20.0.0/24", 6379) for name in STORES}
        expected |= {(name, "[observability]", 4318) for name in SERVICES}
    assert of_cluster == expected


def test_who_is_reached_lets_in_those_who_may_send_and_nobody_else(objects: list[Object]) -> None:
    inner = {service_of(one) for one in workloads(objects)}
    sent = {arrow for arrow in arrows(objects, "Egress") if arrow[1] in inner}
    expected = sent | {EDGE}
    if of_kind(objects, "PodMonitor"):
        expected |= {("[monitoring]", name, 9464) for name in SERVICES}
    assert arrows(objects, "Ingress") == expected


def test_every_url_that_a_service_is_given_is_one_that_it_may_reach(objects: list[Object]) -> None:
    allowed = arrows(objects, "Egress")
    for workload in workloads(objects, *SERVICES):
        for name, value in variables(workload).items():
            if isinstance(value, str) and (match := re.fullmatch(r"http://([a-z-]+):(\d+)", value)):
                target = match[1].removesuffix("-next")
                assert (service_of(workload), target, int(match[2])) in allowed, name
            elif isinstance(value, dict) and value["name"].startswith("store-"):
                store = value["name"].removeprefix("store-")
                assert store in STORES[service_of(workload)]


def test_only_inference_reaches_the_internet_and_never_a_metadata_service(objects: list[Object]) -> None:
    assert {arrow[::2] for arrow in arrows(objects, "Egress") if is_internet(arrow)} == {("inference", 443)}
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert not any(is_reached(address, block) for address in METADATA for block in blocks)


def is_reached(address: str, block: dict[str, str | list[str]]) -> bool:
    one = ipaddress.ip_address(address)
    if one not in ipaddress.ip_network(str(block["cidr"])):
        return False
    return not any(one in ipaddress.ip_network(network) for network in block.get("except", []))


def test_no_private_address_is_reached_by_the_door_to_the_internet(objects: list[Object]) -> None:
    """Else a catalogue could name the stores, the cluster's own API, or a mapped form of either."""
    blocks = [
        peer["ipBlock"]
        for policy in of_kind(objects, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], {NAME: "inference"})
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "::/0"}
    for inside in INSIDE:
        assert not any(is_reached(inside, block) for block in blocks), inside
    assert any(is_reached("104.18.0.1", block) for block in blocks)


def test_the_edge_routes_what_clients_may_call_and_nothing_else(objects: list[Object]) -> None:
    """From the gateway's own contract, without administration, liveness and readiness."""
    document = json.loads((ROOT / "docs" / "openapi" / "gateway.json").read_text())
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    public = {one for one in operations if not one[1].startswith("/admin") and one[1] not in {"/livez", "/readyz"}}
    for routed in edges(objects):
        for method, path in operations:
            sample = re.sub(r"\{\w+\}", "x", path)
            assert routed(method, sample) == ((method, path) in public), f"{method} {path}"
        for method, path in NOWHERE:
            assert not routed(method, path), f"{method} {path}"


def edges(objects: list[Object]) -> Iterator[Callable[[str, str], bool]]:
    """Of each door a function that says whether it lets a method and a path in."""
    for route in of_kind(objects, "HTTPRoute"):
        (rule,) = route["spec"]["rules"]
        yield partial(by_matches, rule["matches"])
    for route in of_kind(objects, "IngressRoute"):
        (rule,) = route["spec"]["routes"]
        yield partial(by_rule, rule["match"])


def by_matches(matches: list[dict[str, Any]], method: str, path: str) -> bool:
    """A PathPrefix is one of whole elements. Source: Gateway API, HTTPPathMatch."""
    for match in matches:
        value, is_prefix = match["path"]["value"], match["path"]["type"] == "PathPrefix"
        is_there = path == value or (is_prefix and path.startswith(value.rstrip("/") + "/"))
        if match["method"] == method and is_there:
            return True
    return False


def by_rule(rule: str, method: str, path: str) -> bool:
    """Judge Traefik's rule for a request to its host. Source: Traefik, rules and priority."""
    matchers: dict[str, Callable[[str], bool]] = {
        "Host": lambda _: True,
        "Method": lambda wanted: wanted == method,
        "Path": lambda wanted: wanted == path,
        "PathPrefix": path.startswith,
    }

    def judged(matcher: re.Match[str]) -> str:
        return str(matchers[matcher[1]](matcher[2]))

    text = re.sub(r"(\w+)\(`([^`]*)`\)", judged, rule)
    assert re.fullmatch(r"[TrueFals()&| \n]+", text), text
    return bool(eval(text.replace("&&", " and ").replace("||", " or ")))  # noqa: S307  # only the words above


def test_the_edge_lets_go_of_an_idle_connection_before_a_gateway_that_leaves_does(objects: list[Object]) -> None:
    transports = {one["metadata"]["name"]: one["spec"] for one in of_kind(objects, "ServersTransport")}
    for route in of_kind(objects, "IngressRoute"):
        for service in route["spec"]["routes"][0]["services"]:
            timeouts = transports[service["serversTransport"]]["forwardingTimeouts"]
            assert timeouts["idleConnTimeout"] == f"{KEEPALIVE_S}s"
            assert timeouts["responseHeaderTimeout"] == "0s"
    assert KEEPALIVE_S < PARTING_S


def test_what_the_edge_names_is_a_service_and_one_of_its_ports(objects: list[Object]) -> None:
    known = {
        (one["metadata"]["name"], port[key])
        for one in of_kind(objects, "Service")
        for port in one["spec"]["ports"]
        for key in ("port", "name")
    }
    backends = [
        backend
        for route in of_kind(objects, "HTTPRoute", "IngressRoute")
        for rule in route["spec"].get("rules", route["spec"].get("routes"))
        for backend in rule.get("backendRefs", rule.get("services"))
    ]
    assert all((backend["name"], backend["port"]) in known for backend in backends)
    assert sum(backend["weight"] for backend in backends) == 100 * len(of_kind(objects, "HTTPRoute", "IngressRoute"))
    for backend in backends:
        (service,) = (one for one in of_kind(objects, "Service") if one["metadata"]["name"] == backend["name"])
        (behind,) = selected(objects, {"matchLabels": service["spec"]["selector"]})
        assert labels_of(behind)[NAME] == "gateway"
        assert "http" in ports_of(behind)
