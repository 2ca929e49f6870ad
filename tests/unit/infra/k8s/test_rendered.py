"""Every rendered object is one that Kubernetes takes, or the operator whose kind it is, by their schemas, strictly."""

from __future__ import annotations

import copy as copies
import json
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]  # as above

from support.kubernetes import container_of, environment, of_kind, service_of, variables, workloads
from support.kustomization import K8S

if TYPE_CHECKING:
    from support.kustomization import Object

SCHEMAS = {
    (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema
    for schema in (json.loads(path.read_text()) for path in sorted((K8S / "schemas").glob("*.json")))
}
VERSIONS = ("1.34", "1.37")
"""The oldest that these manifests are for (a preStop that sleeps is stable since), and the newest that is known."""


def judge(one: Object, version: str) -> None:
    """Raises `ValidationError` of either kind, or `KeyError` for a kind that nobody here knows."""
    if one["apiVersion"].partition("/")[0].count(".") and (one["apiVersion"], one["kind"]) in SCHEMAS:
        Draft202012Validator(SCHEMAS[one["apiVersion"], one["kind"]]).validate(one)
    else:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_every_overlay_is_valid(every_object: list[Object], version: str) -> None:
    problems = []
    for one in every_object:
        try:
            judge(one, version)
        except (ValidationError, kubernetes_validate.ValidationError) as error:
            problems.append(f"{one['kind']} {one['metadata']['name']}: {error.message}")
    assert problems == []


def test_no_two_objects_are_the_same(rendered_objects: list[Object]) -> None:
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in rendered_objects]
    assert len(names) == len(set(names))


def test_everything_is_in_the_namespace(rendered_objects: list[Object]) -> None:
    for one in rendered_objects:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "spillway"


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema["title"])
def test_a_schema_of_ours_is_one_and_says_where_it_comes_from(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert "Source: https://" in schema["description"]


@pytest.mark.parametrize("kind", [kind for _, kind in SCHEMAS])
def test_a_field_that_does_not_exist_is_noticed(every_object: list[Object], kind: str) -> None:
    wrong = copies.deepcopy(of_kind(every_object, kind)[0])
    judge(wrong, VERSIONS[-1])
    wrong["spec"]["colour"] = "green"
    with pytest.raises(ValidationError, match="colour"):
        judge(wrong, VERSIONS[-1])


def test_a_misspelt_field_of_kubernetes_own_kinds_is_noticed(every_object: list[Object]) -> None:
    wrong = copies.deepcopy(workloads(every_object, "gateway")[0])
    container_of(wrong)["readynessProbe"] = container_of(wrong).pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        judge(wrong, VERSIONS[-1])


def test_every_committed_schema_is_used(every_object: list[Object]) -> None:
    assert set(SCHEMAS) <= {(one["apiVersion"], one["kind"]) for one in every_object}


def test_a_canary_gets_its_share_in_the_image_of_the_next_release(canary: list[Object]) -> None:
    (route,) = of_kind(canary, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    assert {backend["name"]: backend["weight"] for backend in rule["backendRefs"]} == {"gateway": 95, "gateway-next": 5}
    stable, following = (container_of(one) for one in workloads(canary, "gateway"))
    assert stable["image"] != following["image"]
    assert stable["image"].partition(":")[0] == following["image"].partition(":")[0]
    assert {**stable, "image": ""} == {**following, "image": ""}, "the next release has other settings"


def test_green_is_complete_and_idle_until_the_weights_are_exchanged(green: list[Object]) -> None:
    (route,) = of_kind(green, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    assert {one["name"]: one["weight"] for one in rule["backendRefs"]} == {"gateway": 100, "gateway-next": 0}
    urls = {one["metadata"]["name"]: variables(one)["GATEWAY_INFERENCE_URL"] for one in workloads(green, "gateway")}
    assert urls == {"gateway": "http://inference:8081", "gateway-next": "http://inference-next:8081"}
    bounds = {
        one["metadata"]["name"]: (one["spec"]["minReplicas"], one["spec"]["maxReplicas"])
        for one in of_kind(green, "HorizontalPodAutoscaler")
    }
    for service in ("gateway", "inference"):
        assert bounds[f"{service}-next"] == bounds[service], "green cannot take what blue takes"


def test_the_pods_of_a_next_release_have_the_same_secrets(
    green: list[Object], secrets: dict[str, dict[str, str]]
) -> None:
    seen: dict[str, list[dict[str, str]]] = {}
    for one in workloads(green, "gateway", "inference"):
        seen.setdefault(service_of(one), []).append(environment(one, secrets))
    for stable, following in seen.values():
        assert {**stable, "GATEWAY_INFERENCE_URL": ""} == {**following, "GATEWAY_INFERENCE_URL": ""}
