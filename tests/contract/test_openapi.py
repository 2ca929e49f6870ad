"""The documents below docs/openapi are the services' contracts: what is committed is what the code serves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
from starlette.testclient import TestClient

import cache.app
import cache.settings
import gateway.app
import gateway.settings
import inference.app
import inference.settings
import jobs.app
import jobs.settings
from common.health import PATHS as HEALTH_PATHS
from devstack.openapi import SERVICES, document, render

if TYPE_CHECKING:
    from fastapi import FastAPI

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi"
SECRET = "a-secret-of-the-tests-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


def app_of(service: str) -> FastAPI:
    """The service with every router there is, `/admin` included; nothing of it is opened but its lifespan."""
    if service == "gateway":
        return gateway.app.create_app(
            gateway.settings.Settings.model_validate(
                dict.fromkeys(
                    (
                        "key_pepper",
                        "admin_key",
                        "seal_secret",
                        "cache_hop_secret",
                        "inference_hop_secret",
                        "jobs_hop_secret",
                    ),
                    SECRET,
                )
                | {
                    "failed_logins_per_minute": 1_000,
                    "state_url": "redis://127.0.0.1:9",
                    "inference_url": NOWHERE,
                    "cache_url": NOWHERE,
                }
            )
        )
    if service == "inference":
        return inference.app.create_app(
            inference.settings.Settings.model_validate(
                {"upstream_base_url": NOWHERE, "upstream_api_key": SECRET, "hop_secret": SECRET}
            )
        )
    if service == "jobs":
        return jobs.app.create_app(
            jobs.settings.Settings.model_validate(
                {"state_url": "redis://127.0.0.1:9", "hop_secret": SECRET, "seal_secret": SECRET}
            )
        )
    return cache.app.create_app(
        cache.settings.Settings.model_validate({"store_url": "redis://127.0.0.1:9", "hop_secret": SECRET})
    )


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in described["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_the_committed_document_is_the_services(service: str) -> None:
    committed = (COMMITTED / f"{service}.json").read_bytes()
    assert committed == render(service), "the contract changed: look at the diff that `just openapi` makes"


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_does_not_depend_on_the_settings_of_the_day(service: str) -> None:
    assert json.loads(render(service)) == app_of(service).openapi() == document(service)


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_says_what_it_is_for(service: str) -> None:
    for method, path, operation in operations(document(service)):
        assert operation.get("summary"), (method, path)
        if service == "gateway" and method in ("post", "patch"):
            assert operation["requestBody"]["content"]["application/json"]["schema"]["properties"], (method, path)


def examples(content: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Those of a body or an answer, each with its schema."""
    described = document("gateway")
    found = content["application/json"]
    schema = found["schema"]
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    shown = [found["example"]] if "example" in found else schema.get("examples", [])
    return [(example, schema | {"components": described["components"]}) for example in shown]


def test_every_body_answer_and_error_of_administration_has_an_example_that_fits_its_shape() -> None:
    for method, path, operation in operations(document("gateway")):
        if not path.startswith("/admin"):
            continue
        contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
        contents += [
            answer["content"] for status, answer in operation["responses"].items() if status not in ("204", "5XX")
        ]
        assert len(contents) >= (1 if "204" in operation["responses"] else 2), (method, path)
        for content in contents:
            shown = examples(content)
            assert shown, (method, path, content)
            for example, schema in shown:
                assert schema.get("properties"), (method, path)
                jsonschema.validate(example, schema)


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_but_healths_refuses_whoever_shows_nothing(service: str) -> None:
    app = app_of(service)
    with TestClient(app, raise_server_exceptions=False) as client:
        for method, path, _ in operations(app.openapi()):
            url = path.replace("{job_id}", f"job_{'0' * 32}").replace("{key_id}", "0" * 16)
            url = re.sub(r"\{[a-z_]+\}", "0" * 64, url)
            for authorization in (None, "Bearer", f"Bearer {SECRET[:-1]}", "Basic YTpi"):
                headers = {"content-type": "application/json", "x-entry-ttl-s": "60"}
                if authorization is not None:
                    headers["authorization"] = authorization
                answer = client.request(method.upper(), url, content=b"{}", headers=headers)
                if path in HEALTH_PATHS:
                    assert answer.status_code in (200, 503)  # /readyz: the stores are away
                else:
                    assert (answer.status_code, "error" in answer.json()) == (401, True), (method, path, authorization)


@pytest.mark.parametrize("service", SERVICES)
def test_no_route_is_hidden_from_the_document(service: str) -> None:
    app = app_of(service)
    described = {path for _, path, _ in operations(app.openapi())}
    found = set()
    routers: list[Any] = [app.router]
    while routers:
        router = routers.pop()
        for route in router.routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                routers.append(inner)
            else:
                found.add(route.path.replace(":path}", "}"))
    assert found == described


def test_without_an_admin_key_there_is_no_administration() -> None:
    settings = gateway.settings.Settings.model_validate(
        dict.fromkeys(("key_pepper", "seal_secret", "cache_hop_secret", "inference_hop_secret"), SECRET)
        | {"state_url": "redis://127.0.0.1:9"}
    )
    with TestClient(gateway.app.create_app(settings)) as client:
        assert client.get("/admin/keys", headers={"authorization": f"Bearer {SECRET}"}).status_code == 404
