"""The catalogue over real sockets: what is served under which name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from support.catalogue import model, models_yaml, target
from support.inference_service import Service, inference_service
from support.platform import UPSTREAM_KEY
from support.upstreams import Switched, switched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PRICE = "{input_usd: 1, output_usd: 2, as_of: 2026-11-01}"
CHAT = "/v1/chat/completions"


def asks(name: str) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Switched]:
    with switched(UPSTREAM_KEY) as started:
        yield started


def public(upstream: Switched, **fields: object) -> str:
    """One model whose name the provider does not know."""
    key = {"api_key": "PROVIDER_KEY", "model": "sim-small", "price": PRICE}
    return models_yaml(model(target("primary", base_url=f"{upstream.url}/v1", **fields or key), name="public"))


@pytest.fixture(scope="module")
def service(upstream: Switched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("catalogue")
    (directory / "PROVIDER_KEY").write_text(f"{UPSTREAM_KEY}\n")
    with inference_service(directory / "models.yaml", public(upstream), secrets_dir=directory) as started:
        yield started


def test_the_provider_is_asked_by_its_own_name_of_the_model_and_with_its_own_key(
    service: Service, upstream: Switched
) -> None:
    answer = service.post(CHAT, asks("public"), **{"x-request-id": "req_name"})
    assert answer.status_code == 200
    assert (answer.headers["x-spillway-model"], answer.headers["x-spillway-target"]) == ("public", "primary")
    seen = httpx2.get(f"{upstream.url}/_sim/requests?request_id=req_name", trust_env=False).json()["requests"]
    assert [attempt["model"] for attempt in seen] == ["sim-small"]


def test_the_models_are_those_of_the_catalogue_in_openais_shape(service: Service) -> None:
    listed = service.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(one["id"], one["object"]) for one in listed["data"]] == [("public", "model")]


@pytest.mark.parametrize("name", ["sim-small", "unknown", "../../etc"])
def test_a_model_that_is_not_in_the_catalogue_is_a_404_and_reaches_nobody(
    service: Service, upstream: Switched, name: str
) -> None:
    before = upstream.asked
    answer = service.post(CHAT, asks(name))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.content == service.post(CHAT, asks("another")).content
    assert upstream.asked == before


def test_the_gateway_learns_prices_and_caps_and_nothing_of_the_provider(service: Service) -> None:
    answer = service.get("/v1/catalogue")
    assert answer.json()["models"] == {
        "public": {"price": {"input_usd": 1, "output_usd": 2}, "max_output_tokens": None}
    }
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    assert "http" not in answer.text
    assert UPSTREAM_KEY not in answer.text


def test_what_the_gateway_knows_already_is_not_sent_again(service: Service) -> None:
    tag = service.get("/v1/catalogue").headers["etag"]
    for known in (tag, f'"x", {tag}', f"W/{tag}"):
        again = service.get("/v1/catalogue", **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert service.get("/v1/catalogue", **{"if-none-match": '"x"'}).status_code == 200


def test_the_catalogue_is_for_the_platform_alone(service: Service) -> None:
    assert httpx2.get(f"{service.url}/v1/catalogue", trust_env=False).status_code == 401


@pytest.mark.parametrize(("header", "attempts"), [("1", "1"), ("2", "2"), ("9", "3"), ("x", "3"), ("0", "1")])
def test_a_caller_may_allow_fewer_attempts_and_never_more(tmp_path: Path, header: str, attempts: str) -> None:
    with switched() as upstream, inference_service(tmp_path / "m.yaml", public(upstream, model="sim-small")) as service:
        upstream.status = 503
        answer = service.post(CHAT, asks("public"), **{"x-spillway-max-attempts": header})
        assert (answer.status_code, answer.headers["x-upstream-attempts"]) == (503, attempts)
        assert upstream.asked == int(attempts)


@pytest.mark.parametrize("is_ready_without", [True])
def test_a_service_whose_upstreams_are_all_away_is_ready(tmp_path: Path, is_ready_without: bool) -> None:
    text = models_yaml(model(target("gone", base_url="http://127.0.0.1:9/v1")))
    with inference_service(tmp_path / "models.yaml", text) as service:
        assert (service.get("/readyz").status_code == 200) is is_ready_without
