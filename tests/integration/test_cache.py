"""What the cache promises a client of the gateway: shapes, directives, policies, embeddings, purge."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from gateway.cli.commands import main
from support.platform import ADMIN_KEY, MODEL, Platform, chat, eventually

if TYPE_CHECKING:
    from openai import OpenAI

CHAT = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
            },
        },
    }
]
VARIANTS: dict[str, dict[str, Any]] = {
    "text": {},
    "one token": {"max_tokens": 1},
    "three choices": {"n": 3},
    "cut by length": {"max_tokens": 5},
    "tool call": {"tools": TOOLS, "tool_choice": "required"},
    "json": {"response_format": {"type": "json_object"}},
}


def accumulated(sdk: OpenAI, body: dict[str, Any]) -> tuple[Any, httpx2.Headers]:
    """What the SDK's own stream helper makes of a stream."""
    with sdk.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        headers = stream._response.headers
        try:
            return stream.get_final_completion(), headers
        except openai.LengthFinishReasonError as cut:  # the helper's way to say so; the answer is a whole one
            return cut.completion, headers


def whole(sdk: OpenAI, body: dict[str, Any]) -> tuple[Any, httpx2.Headers]:
    raw = sdk.chat.completions.with_raw_response.create(**body)
    return raw.parse(), raw.headers


def meaning(completion: Any) -> dict[str, Any]:
    """All that an answer says, whatever its shape."""
    said = completion.model_dump()
    for choice in said["choices"]:
        choice["message"].pop("parsed", None)
        choice["message"] = {key: value for key, value in choice["message"].items() if value is not None}
        for call in choice["message"].get("tool_calls", ()):
            call["function"].pop("parsed_arguments", None)
            call.pop("index", None)
    return {key: said[key] for key in ("id", "created", "model", "system_fingerprint", "choices", "usage")}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stored", [whole, accumulated])
@pytest.mark.parametrize("asked", [whole, accumulated])
def test_whatever_shape_was_stored_either_shape_is_answered_with_the_same_message(
    sdk: OpenAI, prompt: str, variant: str, stored: Any, asked: Any
) -> None:
    body = chat(prompt, **VARIANTS[variant])
    first, headers = stored(sdk, body)
    assert headers["x-cache"] == "miss"

    def hit() -> Any:
        again, headers = asked(sdk, body)
        return again if headers["x-cache"] == "hit" else None

    again = eventually(hit)
    assert meaning(again) == meaning(first)
    assert again.usage.completion_tokens > 0


def events(http: httpx2.Client, body: dict[str, Any], **headers: str) -> tuple[httpx2.Response, list[bytes]]:
    answer = http.post(CHAT, json=body, headers=headers)
    return answer, [event for event in answer.content.split(b"\n\n") if event]


@pytest.mark.parametrize("includes_usage", [True, False])
def test_a_stream_that_is_replayed_is_the_stream_that_was_stored(
    http: httpx2.Client, prompt: str, includes_usage: bool
) -> None:
    body = chat(prompt, stream=True, stream_options={"include_usage": includes_usage})
    first, said = events(http, body)

    def hit() -> Any:
        answer, again = events(http, body)
        return again if answer.headers["x-cache"] == "hit" else None

    assert first.headers["x-cache"] == "miss"
    assert eventually(hit) == said
    assert said[-1] == b"data: [DONE]"
    assert any(b'"usage":{' in event for event in said) == includes_usage
    if not includes_usage:
        assert not any(b'"usage"' in event for event in said)


def test_a_paced_replay_has_the_same_events(http: httpx2.Client, prompt: str) -> None:
    body = chat(f"{prompt} [[sim tokens=5]]", stream=True)
    _, said = events(http, body)

    def paced() -> Any:
        answer, again = events(http, body, **{"x-spillway-replay": "paced"})
        return (answer, again) if answer.headers["x-cache"] == "hit" else None

    answer, again = eventually(paced)
    assert again == said
    assert answer.elapsed.total_seconds() >= 5 * 0.02


@pytest.fixture
def cached(http: httpx2.Client, prompt: str) -> dict[str, Any]:
    """A request whose answer is in the cache."""
    body = chat(prompt)
    eventually(lambda: http.post(CHAT, json=body).headers["x-cache"] == "hit")
    return body


def ask(http: httpx2.Client, body: dict[str, Any], cache_control: str) -> httpx2.Response:
    return http.post(CHAT, json=body, headers={"cache-control": cache_control})


def test_only_if_cached_is_answered_from_the_cache_or_not_at_all(
    stack: Platform, http: httpx2.Client, cached: dict[str, Any]
) -> None:
    hit = ask(http, cached, "only-if-cached")
    assert (hit.status_code, hit.headers["x-cache"], hit.headers["x-upstream-attempts"]) == (200, "hit", "0")
    for absent in (cached | {"seed": 1}, cached | {"seed": 1, "stream": True}):
        refused = ask(http, absent, "only-if-cached")
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
        assert refused.headers["x-should-retry"] == "false"
        assert stack.attempts(refused.headers["x-request-id"]) == []


def test_an_answer_that_is_older_than_asked_for_is_fetched_anew(http: httpx2.Client, cached: dict[str, Any]) -> None:
    assert ask(http, cached, "max-age=600").headers["x-cache"] == "hit"
    eventually(lambda: int(ask(http, cached, "max-age=600").headers["age"]) >= 1)
    assert ask(http, cached, "max-age=0").headers["x-cache"] == "miss"


@pytest.mark.parametrize("nonsense", ["max-age=soon", "max-age=-1", 'max-age=""'])
def test_an_age_that_is_none_means_fresh(http: httpx2.Client, cached: dict[str, Any], nonsense: str) -> None:
    eventually(lambda: int(ask(http, cached, "max-age=600").headers["age"]) >= 1)
    assert ask(http, cached, nonsense).headers["x-cache"] == "miss"


def test_a_fresh_answer_replaces_the_stored_one(http: httpx2.Client, cached: dict[str, Any]) -> None:
    before = http.post(CHAT, json=cached).json()["id"]
    fresh = ask(http, cached, "no-cache")
    assert fresh.headers["x-cache"] == "miss"
    assert fresh.json()["id"] != before  # the simulator's id holds the number of the attempt
    eventually(lambda: http.post(CHAT, json=cached).json()["id"] == fresh.json()["id"])


@pytest.mark.parametrize("how", ["fin", "rst", "stall", "garbage", "end", "error"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_no_answer_that_was_cut_is_ever_stored(
    stack: Platform, http: httpx2.Client, prompt: str, how: str, is_stream: bool
) -> None:
    is_retried = how in ("fin", "rst") and not is_stream  # by inference, twice
    body = chat(f"{prompt} [[sim how={how} cut_after=3 itl_ms=1 times={3 if is_retried else 1}]]")
    headers = {"x-request-timeout-ms": "9000" if is_retried else "700"}
    try:
        broken = http.post(CHAT, json=body | {"stream": is_stream}, headers=headers)
        assert b"[DONE]" not in broken.content
        assert is_stream or broken.status_code in (502, 504)
    except httpx2.RemoteProtocolError:
        assert is_stream
    after = http.post(CHAT, json=body)
    assert (after.status_code, after.headers["x-cache"]) == (200, "miss")
    assert len(stack.attempts(after.headers["x-request-id"])) == 1


def test_a_stream_without_a_finish_reason_is_not_stored(http: httpx2.Client, prompt: str) -> None:
    body = chat(f"{prompt} [[sim how=end cut_after=3 itl_ms=1]]", stream=True)
    for _ in range(2):
        with pytest.raises(httpx2.RemoteProtocolError):
            http.post(CHAT, json=body)


# -- embeddings --------------------------------------------------------------------------------------------------------


def embed(http: httpx2.Client, inputs: Any, **fields: Any) -> httpx2.Response:
    return http.post("/v1/embeddings", json={"model": "sim-embed", "input": inputs, "dimensions": 4, **fields})


def vectors(answer: httpx2.Response) -> list[Any]:
    assert [item["index"] for item in answer.json()["data"]] == list(range(len(answer.json()["data"])))
    return [item["embedding"] for item in answer.json()["data"]]


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_a_batch_is_answered_from_its_items_entries_and_only_the_rest_goes_upstream(
    stack: Platform, http: httpx2.Client, prompt: str, encoding: dict[str, str]
) -> None:
    one, two, three = (f"{prompt} {encoding} {number}" for number in ("1", "2", "three"))
    expected = {text: vectors(embed(http, text, **encoding, user="x"))[0] for text in (one, two)}
    eventually(lambda: embed(http, [one, two], **encoding).headers["x-cache"] == "hit")
    both = embed(http, [two, one], **encoding)
    assert (both.headers["x-cache"], vectors(both)) == ("hit", [expected[two], expected[one]])
    assert stack.attempts(both.headers["x-request-id"]) == []

    mixed = embed(http, [one, three, two], **encoding)
    assert mixed.headers["x-cache"] == "miss"
    assert vectors(mixed)[::2] == [expected[one], expected[two]]
    (attempt,) = stack.attempts(mixed.headers["x-request-id"])
    alone = embed(http, three, **encoding)
    assert vectors(alone) == [vectors(mixed)[1]] or alone.headers["x-cache"] == "hit"
    fresh = http.post(
        "/v1/embeddings",
        json={"model": "sim-embed", "input": [one, three, two], "dimensions": 4, **encoding},
        headers={"cache-control": "no-store"},
    )
    assert fresh.json() == mixed.json()  # usage too: what the items cost when they were computed adds up
    assert attempt["path"] == "/v1/embeddings"


def test_both_encodings_say_the_same_numbers(http: httpx2.Client, prompt: str) -> None:
    floats = vectors(embed(http, prompt, encoding_format="float"))[0]
    packed = vectors(embed(http, prompt, encoding_format="base64"))[0]
    assert struct.unpack("<4f", base64.b64decode(packed)) == pytest.approx(floats)


def test_another_dimension_is_another_entry(http: httpx2.Client, prompt: str) -> None:
    eventually(lambda: embed(http, prompt).headers["x-cache"] == "hit")
    assert embed(http, prompt, dimensions=5).headers["x-cache"] == "miss"


def test_the_sdk_gets_embeddings_out_of_the_cache(sdk: OpenAI, prompt: str) -> None:
    def create() -> Any:
        return sdk.embeddings.with_raw_response.create(model="sim-embed", input=[prompt, "other"], dimensions=4)

    first = create().parse()
    again = eventually(lambda: answer if (answer := create()).headers["x-cache"] == "hit" else None).parse()
    assert again == first


# -- operators ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def admin(stack: Platform) -> Any:
    with stack.http(ADMIN_KEY) as client:
        yield client


def test_an_operator_sees_hits_and_misses_by_tenant(admin: httpx2.Client, cached: dict[str, Any]) -> None:
    assert cached
    seen = admin.get("/admin/cache/stats").json()
    assert seen["tenants"]["alice"]["hits"] >= 1
    assert seen["tenants"]["alice"]["stored"] >= 1
    assert seen["store"]["used_bytes"] > 0
    assert seen["replica"]["is_left_alone"] is False


@pytest.mark.parametrize(
    ("purge", "is_gone"),
    [
        ({"tenant": "alice"}, True),
        ({"model": MODEL}, True),
        ({"tenant": "alice", "model": MODEL, "older_than_s": 0}, True),
        ({"everything": True}, True),
        ({"tenant": "bob"}, False),
        ({"tenant": "alice", "model": "sim-large"}, False),
        ({"older_than_s": 3600}, False),
    ],
)
def test_an_operator_purges_by_tenant_model_or_age(
    http: httpx2.Client, admin: httpx2.Client, cached: dict[str, Any], purge: dict[str, Any], is_gone: bool
) -> None:
    told = admin.post("/admin/cache/purges", json=purge)
    assert (told.status_code, told.json()["is_complete"]) == (200, True)
    assert (told.json()["deleted"] >= 1) or not is_gone
    assert http.post(CHAT, json=cached).headers["x-cache"] == ("miss" if is_gone else "hit")


@pytest.mark.parametrize("purge", [{}, {"tenant": "alice", "everything": True}, {"tenants": "alice"}, {"tenant": 1}])
def test_a_purge_that_does_not_say_what_it_means_is_refused(admin: httpx2.Client, purge: dict[str, Any]) -> None:
    assert admin.post("/admin/cache/purges", json=purge).status_code == 400


def test_an_api_key_neither_sees_nor_purges(http: httpx2.Client) -> None:
    assert http.get("/admin/cache/stats").status_code == 403
    assert http.post("/admin/cache/purges", json={"everything": True}).status_code == 403


def test_the_command_line_shows_and_purges(
    stack: Platform, http: httpx2.Client, cached: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"SPILLWAY_URL": stack.gateway, "SPILLWAY_ADMIN_KEY": ADMIN_KEY}
    assert main(["cache", "stats"], environ) == 0
    assert "alice" in capsys.readouterr().out
    assert main(["cache", "purge", "--tenant", "alice", "--model", MODEL], environ) == 0
    assert "entries deleted" in capsys.readouterr().out
    assert http.post(CHAT, json=cached).headers["x-cache"] == "miss"


def test_a_streamed_answer_that_fails_is_an_error_to_the_sdk_however_often_it_is_asked(
    sdk: OpenAI, prompt: str
) -> None:
    for _ in range(2):
        with pytest.raises(openai.APIError):
            list(sdk.chat.completions.create(**chat(f"{prompt} [[sim how=error cut_after=2 itl_ms=5]]", stream=True)))
