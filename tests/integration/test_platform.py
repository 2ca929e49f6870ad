"""The whole platform, as OpenAI's own client sees it."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai
import pytest

from support.platform import ADMIN_KEY, BOUND_S, MODEL, Platform, chat, eventually

if TYPE_CHECKING:
    import httpx2
    from openai import OpenAI


def ask(sdk: OpenAI, prompt: str, **fields: Any) -> Any:
    return sdk.chat.completions.create(**chat(prompt, **fields))


def test_a_chat_completion_is_the_upstreams(sdk: OpenAI, prompt: str) -> None:
    answer = ask(sdk, f"{prompt} [[sim tokens=5]]")
    assert (answer.model, answer.choices[0].finish_reason, answer.usage.completion_tokens) == (MODEL, "stop", 5)


def test_a_streamed_answer_is_the_same_text_as_the_whole_one(sdk: OpenAI, prompt: str) -> None:
    whole = ask(sdk, prompt).choices[0].message.content
    chunks = list(ask(sdk, prompt, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 20


def test_several_choices_are_streamed_to_the_end_of_each(sdk: OpenAI, prompt: str) -> None:
    chunks = list(ask(sdk, prompt, stream=True, n=3))
    assert {choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason} == {0, 1, 2}


def test_a_client_of_http_1_0_gets_a_stream_as_it_is(stack: Platform, prompt: str) -> None:
    url = urlsplit(stack.gateway)
    body = json.dumps(chat(f"{prompt} [[sim tokens=5]]", stream=True)).encode()
    with socket.create_connection((url.hostname, url.port), BOUND_S) as wire:
        wire.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (stack.key.encode(), len(body), body)
        )
        head, _, events = b"".join(iter(lambda: wire.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")
    assert events.count(b"\n\n") == 6  # five tokens, and the end


def test_embeddings_are_the_upstreams(sdk: OpenAI) -> None:
    answer = sdk.embeddings.create(model="sim-embed", input=["one", "two"], dimensions=8)
    assert [len(item.embedding) for item in answer.data] == [8, 8]


def test_models_are_listed(sdk: OpenAI) -> None:
    assert MODEL in {model.id for model in sdk.models.list()}


def test_a_model_is_shown_and_one_that_does_not_exist_is_not(sdk: OpenAI) -> None:
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.models.retrieve("acme/none")
    assert refused.value.code == "model_not_found"


def test_an_unknown_field_reaches_the_upstream(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    one, other = (
        http.post("/v1/chat/completions", json=chat(prompt, a_field_nobody_knows=value)).json()["id"]
        for value in (1, 2)
    )
    assert one != other  # the simulator's ids are hashes of what it was asked
    attempt = stack.last_attempt()
    assert attempt is not None
    assert attempt["model"] == MODEL


def test_every_answer_says_how_it_came_about(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    answer = http.post("/v1/chat/completions", json=chat(prompt))
    assert answer.status_code == 200
    assert answer.headers["x-cache"] == "miss"
    assert answer.headers["x-upstream-attempts"] == "1"
    stages = [stage.partition(";")[0] for stage in answer.headers["server-timing"].split(", ")]
    assert stages == ["auth", "cache", "upstream", "total"]
    (attempt,) = stack.attempts(answer.headers["x-request-id"])
    assert (attempt["status"], attempt["headers"]["accept-encoding"]) == (200, "identity")


def test_the_upstream_sees_our_key_and_nothing_of_the_clients_identity(stack: Platform, prompt: str) -> None:
    spoofed = {"x-request-id": "mine", "x-tenant": "root", "cookie": "session=1", "x-forwarded-for": "1.2.3.4"}
    with stack.http(**spoofed) as http:
        answer = http.post("/v1/chat/completions", json=chat(prompt))
    (attempt,) = stack.attempts(answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != "mine"
    assert not spoofed.keys() & attempt["headers"].keys() - {"x-request-id"}


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer sw_live_x", "Basic YTpi", f"Bearer {ADMIN_KEY}"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/generate"), ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"), ("GET", "/v1/models")],
)
def test_without_a_key_no_route_answers(http: httpx2.Client, method: str, path: str, authorization: str) -> None:
    headers = {"authorization": authorization}
    answer = http.request(method, path, json={} if method == "POST" else None, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_sdk_reads_a_refused_key(stack: Platform) -> None:
    with stack.sdk(key=stack.key[:-1] + "x") as sdk, pytest.raises(openai.AuthenticationError) as refused:
        sdk.models.list()
    assert refused.value.code == "invalid_api_key"


def test_the_sdk_reads_a_model_that_does_not_exist(stack: Platform, sdk: OpenAI, prompt: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        ask(sdk, prompt, model="../../etc/passwd")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert stack.attempts(refused.value.response.headers["x-request-id"]) == []


def test_the_sdk_reads_a_bad_parameter(sdk: OpenAI, prompt: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(sdk, prompt, temperature=3)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "temperature")


def test_a_prompt_is_answered_by_the_simplest_door_and_again_from_the_cache(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    first = http.post("/generate", json={"prompt": prompt})
    assert first.status_code == 200
    assert (first.headers["x-cache"], first.json()["cached"]) == ("miss", False)

    def hit() -> httpx2.Response | None:
        answer = http.post("/generate", json={"prompt": prompt})
        return answer if answer.headers["x-cache"] == "hit" else None

    again = eventually(hit)
    assert again.json() == first.json() | {"cached": True}
    assert int(again.headers["age"]) >= 0
    assert stack.attempts(again.headers["x-request-id"]) == []
    shared = http.post("/v1/chat/completions", json=chat(prompt))
    assert shared.headers["x-cache"] == "hit"
    assert shared.json()["choices"][0]["message"]["content"] == first.json()["result"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"stream": True}, "stream"),
    ],
)
def test_the_simplest_door_refuses_what_it_has_no_answer_for(
    stack: Platform, http: httpx2.Client, prompt: str, change: dict[str, Any], param: str
) -> None:
    before = stack.last_attempt()
    for asked in ({}, {"prefer": "respond-async"}):
        answer = http.post("/generate", json={"prompt": prompt} | change, headers=asked)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, "unsupported_parameter")
    assert stack.last_attempt() == before


@pytest.mark.parametrize("patience", ["inf", "nan", "-5", "0"])
def test_a_patience_that_is_none_is_refused(http: httpx2.Client, prompt: str, patience: str) -> None:
    answer = http.post("/v1/chat/completions", json=chat(prompt), headers={"x-request-timeout-ms": patience})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout-ms")


@pytest.fixture
def cached(http: httpx2.Client, prompt: str) -> str:
    """A prompt whose answer is in alice's cache."""

    def is_hit() -> bool:
        return http.post("/v1/chat/completions", json=chat(prompt)).headers["x-cache"] == "hit"

    eventually(is_hit)
    return prompt


def test_an_answer_never_crosses_tenants(stack: Platform, cached: str) -> None:
    with stack.http(stack.other_key) as bobs:
        answer = bobs.post("/v1/chat/completions", json=chat(cached))
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")
    assert len(stack.attempts(answer.headers["x-request-id"])) == 1


@pytest.mark.parametrize(
    "change", [{"temperature": 0.1}, {"seed": 7}, {"n": 2}, {"a_field_nobody_knows": 1}, {"model": "sim-large"}]
)
def test_a_field_that_may_change_the_answer_makes_it_a_miss(
    http: httpx2.Client, cached: str, change: dict[str, Any]
) -> None:
    assert http.post("/v1/chat/completions", json=chat(cached) | change).headers["x-cache"] == "miss"


def test_a_field_that_shapes_nothing_leaves_it_a_hit(http: httpx2.Client, cached: str) -> None:
    asked = chat(cached, user="u", metadata={"a": "b"}, stream=False)
    assert http.post("/v1/chat/completions", json=asked).headers["x-cache"] == "hit"


@pytest.mark.parametrize(("directive", "outcome"), [("no-cache", "miss"), ("No-Store", "bypass")])
def test_a_client_can_ask_for_a_fresh_answer(http: httpx2.Client, cached: str, directive: str, outcome: str) -> None:
    answer = http.post("/v1/chat/completions", json=chat(cached), headers={"cache-control": directive})
    assert answer.headers["x-cache"] == outcome


def test_an_answer_that_must_not_be_stored_is_not(http: httpx2.Client, prompt: str) -> None:
    for _ in range(3):
        answer = http.post("/v1/chat/completions", json=chat(prompt), headers={"cache-control": "no-store"})
        assert answer.headers["x-cache"] == "bypass"
    assert http.post("/v1/chat/completions", json=chat(prompt)).headers["x-cache"] == "miss"


def test_each_service_says_that_it_is_ready(stack: Platform, http: httpx2.Client) -> None:
    for url in (stack.gateway, stack.inference, stack.cache):
        assert http.get(f"{url}/health").json() == {"status": "ok"}
        assert http.get(f"{url}/livez").status_code == 200
        assert http.get(f"{url}/readyz").json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics", "/v1", "/admin", "//v1/models"])
def test_nothing_else_is_served(http: httpx2.Client, path: str) -> None:
    answer = http.get(http.base_url.copy_with(raw_path=path.encode()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_inner_services_refuse_callers_who_are_not_the_platform(stack: Platform, http: httpx2.Client) -> None:
    for method, url in (
        ("POST", f"{stack.inference}/v1/chat/completions"),
        ("GET", f"{stack.inference}/v1/models"),
        ("GET", f"{stack.cache}/v1/entries/{'0' * 64}"),
        ("PUT", f"{stack.cache}/v1/entries/{'0' * 64}"),
        ("DELETE", f"{stack.cache}/v1/entries/{'0' * 64}"),
    ):
        for authorization in ("", f"Bearer {stack.key}"):
            answer = http.request(method, url, headers={"authorization": authorization})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_hop_token")
