from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from fastapi import FastAPI, Header, Path, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from common import errors
from common.errors import InvalidRequest, RateLimited, ServiceError, Unauthenticated, Unavailable, param_path
from common.health import Health
from common.middleware import RequestScope
from common.telemetry.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a prompt that nobody may see"


def the_app() -> FastAPI:
    app = FastAPI(openapi_url=None)
    errors.install(app, Refusals())
    app.add_middleware(RequestScope, health=Health(), edge=True)

    @app.get("/limited")
    async def limited() -> None:
        raise RateLimited("Too many requests.", param="model", headers={"retry-after": "7"})

    @app.get("/numbers/{number}")
    async def numbers(number: Annotated[int, Path(ge=1)], _: Annotated[int, Query(alias="limit", ge=1)] = 1) -> int:
        return number

    @app.get("/headers")
    async def headers(_: Annotated[int, Header(alias="x-entry-ttl-s")]) -> None: ...

    @app.get("/http/{status}")
    async def http(status: int) -> None:
        raise HTTPException(status, "From the framework.", {"x-own": "kept"})

    @app.get("/unforeseen")
    async def unforeseen() -> None:
        raise RuntimeError(SECRET)

    @app.get("/gone")
    async def gone() -> None:
        raise ClientDisconnect

    return app


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(the_app()) as client:
        yield client


def error_of(body: bytes) -> dict[str, Any]:
    document = json.loads(body)
    assert list(document) == ["error"]
    assert set(document["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = document["error"]
    return error


def test_an_error_is_openais_envelope_with_its_headers(client: TestClient) -> None:
    answer = client.get("/limited")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["content-type"] == "application/json"
    assert error_of(answer.content) == {
        "message": "Too many requests.",
        "type": "rate_limit_error",
        "param": "model",
        "code": "rate_limit_exceeded",
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "param"),
    [
        ("GET", "/nowhere", 404, "not_found", None),
        ("POST", "/limited", 405, "method_not_allowed", None),
        ("GET", "/numbers/x", 400, "invalid_request", "number"),
        ("GET", "/numbers/0", 400, "invalid_request", "number"),
        ("GET", "/numbers/1?limit=x", 400, "invalid_request", "limit"),
        ("GET", "/headers", 400, "invalid_request", "x-entry-ttl-s"),
        ("GET", "/http/400", 400, "invalid_request", None),
        ("GET", "/http/401", 401, "invalid_api_key", None),
        ("GET", "/http/403", 403, "permission_denied", None),
        ("GET", "/http/413", 413, "payload_too_large", None),
        ("GET", "/http/418", 418, "http_error", None),
        ("GET", "/gone", 499, "client_gone", None),
        ("GET", "/unforeseen", 500, "internal_error", None),
    ],
)
def test_every_error_of_the_framework_has_the_one_shape(  # noqa: PLR0913, PLR0917  # a row of the table
    client: TestClient, method: str, path: str, status: int, code: str, param: str | None
) -> None:
    answer = client.request(method, path)
    error = error_of(answer.content)
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")


def test_headers_of_a_framework_error_are_kept(client: TestClient) -> None:
    assert client.get("/http/400").headers["x-own"] == "kept"
    assert client.post("/limited").headers["allow"] == "GET"


def test_what_nobody_foresaw_tells_the_caller_nothing(client: TestClient) -> None:
    assert SECRET not in client.get("/unforeseen").text


def test_default_headers_belong_to_the_state_and_can_be_replaced() -> None:
    assert Unauthenticated("who?").headers == {"www-authenticate": "Bearer"}
    assert Unavailable("later").headers == {"retry-after": "1"}
    assert Unavailable("later", headers={"retry-after": "9"}).headers == {"retry-after": "9"}
    assert Unavailable("later").headers == {"retry-after": "1"}


def test_an_error_can_be_narrowed_by_its_code() -> None:
    narrowed = InvalidRequest("no", code="unsupported_parameter")
    assert (narrowed.code, narrowed.type, InvalidRequest("no").code) == (
        "unsupported_parameter",
        "invalid_request_error",
        "invalid_request",
    )


@pytest.mark.parametrize("text", ["\ud800", "half a pair: \udfff!"])
def test_text_that_is_no_unicode_still_makes_an_answer(text: str) -> None:
    error = error_of(ServiceError(f"Upstream said {text}", param=text, code=text).body())
    assert error["message"].startswith("Upstream said ")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ((), None),
        (("model",), "model"),
        (("messages", 0, "role"), "messages[0].role"),
        (("input", 3, 1), "input[3][1]"),
        (("metadata", "a key"), "metadata.a key"),
    ],
)
def test_a_place_is_written_as_openai_writes_it(location: tuple[str | int, ...], path: str | None) -> None:
    assert param_path(location) == path
