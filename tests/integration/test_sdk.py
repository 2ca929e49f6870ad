"""What programs that use OpenAI's own client count on, beyond the plain calls of `test_platform`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from support.platform import ADMIN_KEY, BOUND_S, MODEL, Platform, chat

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai import OpenAI

EMBEDS = "sim-embed"
TOOLS: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


class Person(BaseModel):
    name: str
    age: int


def test_a_tool_is_called_whether_streamed_or_not(sdk: OpenAI, prompt: str) -> None:
    asked = chat(prompt, tools=TOOLS, tool_choice="required")
    whole = sdk.chat.completions.create(**asked).choices[0]
    call = (whole.message.tool_calls or [])[0]
    assert (whole.finish_reason, call.type, call.type == "function" and call.function.name) == (
        "tool_calls",
        "function",
        "look_up",
    )
    with sdk.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert [one.function.name for one in streamed.message.tool_calls or ()] == ["look_up"]


def test_an_answer_of_a_schema_is_parsed(sdk: OpenAI, prompt: str) -> None:
    answer = sdk.chat.completions.parse(**chat(prompt), response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_what_only_the_upstream_understands_goes_there(sdk: OpenAI, stack: Platform, prompt: str) -> None:
    asked = chat(prompt, seed=7, stop=["never"], logprobs=True, top_logprobs=2, user="u", metadata={"a": "b"})
    asked |= {"reasoning_effort": "low", "service_tier": "auto", "extra_body": {"top_k": 5}, "extra_query": {"v": "1"}}
    assert sdk.chat.completions.create(**asked).choices[0].finish_reason == "stop"
    legacy = chat(prompt, functions=[{"name": "f", "parameters": {}}], function_call="none", n=2)
    assert len(sdk.chat.completions.create(**legacy).choices) == 2
    attempt = stack.last_attempt()
    assert attempt is not None
    assert attempt["status"] == 200


def test_ids_and_limits_can_be_read_beside_the_answer(sdk: OpenAI, prompt: str) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**chat(prompt))
    answer = raw.parse()
    assert raw.request_id == answer._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-cache"] == "miss"


@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
def test_embeddings_are_the_same_packed_or_not(sdk: OpenAI, given: Any) -> None:
    packed = sdk.embeddings.create(model=EMBEDS, input=given)
    plain = sdk.embeddings.create(model=EMBEDS, input=given, encoding_format="float")
    assert [item.index for item in packed.data] == list(range(len(plain.data)))
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)


NOT_SERVED: dict[str, Callable[[OpenAI], object]] = {
    "responses": lambda sdk: sdk.responses.create(model=MODEL, input="x"),
    "completions": lambda sdk: sdk.completions.create(model=MODEL, prompt="x"),
    "files": lambda sdk: sdk.files.list(),
    "moderations": lambda sdk: sdk.moderations.create(input="x"),
    "images": lambda sdk: sdk.images.generate(model=MODEL, prompt="x"),
    "batches": lambda sdk: sdk.batches.list(),
    "transcriptions": lambda sdk: sdk.audio.transcriptions.create(model=MODEL, file=("a.wav", b"a")),
}


@pytest.mark.parametrize("call", NOT_SERVED.values(), ids=NOT_SERVED)
def test_what_is_not_served_is_not_found(sdk: OpenAI, call: Callable[[OpenAI], object]) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        call(sdk)
    assert (refused.value.code, refused.value.type) == ("not_found", "invalid_request_error")
    assert "no such route" in str(refused.value)


def test_a_limit_is_a_rate_limit_error_that_says_when_to_return(stack: Platform, prompt: str) -> None:
    with stack.http(ADMIN_KEY) as admin:
        asked = {"tenant": "sdk", "name": "x", "limits": {"requests_per_minute": 1}}
        key = admin.post("/admin/keys", json=asked).json()["key"]
    with stack.sdk(key=key) as sdk:
        sdk.chat.completions.create(**chat(prompt))
        with pytest.raises(openai.RateLimitError) as refused:
            sdk.chat.completions.create(**chat(prompt))
    assert refused.value.code == "key_requests_per_minute_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in refused.value.response.headers


def test_a_client_that_retries_does_not_repeat_what_we_have_retried(stack: Platform, prompt: str) -> None:
    with stack.sdk(max_retries=2) as sdk, pytest.raises(openai.InternalServerError) as failed:
        sdk.chat.completions.create(**chat(f"{prompt} [[sim status=503]]"))
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert len(stack.attempts(failed.value.response.headers["x-request-id"])) == 3


def test_a_clients_own_timeout_is_our_deadline(stack: Platform, prompt: str) -> None:
    with stack.sdk(timeout=0.6) as sdk, pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        sdk.chat.completions.create(**chat(f"{prompt} [[sim ttft_ms=60000]]"))
    for patient in (None, httpx2.Timeout(BOUND_S, read=None)):
        with stack.sdk(timeout=patient) as sdk:
            assert sdk.chat.completions.create(**chat(prompt)).choices


@pytest.mark.anyio
async def test_the_asynchronous_client_asks_streams_and_lists(stack: Platform, prompt: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.gateway}/v1/", api_key=stack.key, max_retries=0) as sdk:
        answers = await asyncio.gather(*[sdk.chat.completions.create(**chat(f"{prompt} {n}")) for n in range(3)])
        assert len({answer.id for answer in answers}) == 3
        stream = await sdk.chat.completions.create(**chat(prompt), stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"
        assert MODEL in [model.id async for model in sdk.models.list()]
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(**chat(prompt, top_p=2))
