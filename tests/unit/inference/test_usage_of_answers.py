"""What an answer used: asked of the upstream, hidden from who did not ask, in the trailer, the meter and the spans."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.errors import ClientGone, ServiceError
from common.streams import sse
from common.usage import Usage, take_comment
from support.model import DONE, END, EVENTS, PROMPT, TOKEN, Model, question, says, whole

if TYPE_CHECKING:
    from inference.answers import AnswerStream
    from inference.questions import Question

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}
COST = (7 * 1 + 2 * 2) / 1e6
REPORT = sse.event(json.dumps({"id": "c-1", "model": "m-1", "choices": [], "usage": USAGE}).encode())
FIRST = sse.event(b'{"id":"c-1","model":"m-1","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}')
PROMPT_TOKENS = -(-(len(PROMPT) + len("user")) // 4)


async def streamed(
    stream: AnswerStream, asked: Question, end: ServiceError | None = None
) -> tuple[bytes, Usage | None]:
    """What the caller may see of a stream that ended so, and what the gateway is told of it."""
    shown, usage = take_comment(await whole(stream))
    await stream.close(end)
    assert usage == asked.meter.total()
    return shown, usage


async def test_usage_is_asked_of_the_upstream_and_hidden_from_a_caller_who_did_not_ask() -> None:
    model, asked = Model(says(200, FIRST + END + REPORT + DONE, EVENTS)), question()
    shown, usage = await streamed(await model.answers.stream(asked), asked)
    assert model.asked[0]["stream_options"] == {"include_usage": True}
    assert shown == FIRST.replace(b',"usage":null', b"") + END + DONE
    assert usage == Usage(7, 2, COST, is_estimated=False)


async def test_a_caller_who_asked_sees_the_upstreams_usage() -> None:
    asked = question(stream_options={"include_usage": True})
    model = Model(says(200, FIRST + END + REPORT + DONE, EVENTS))
    shown, usage = await streamed(await model.answers.stream(asked), asked)
    assert shown == FIRST + END + REPORT + DONE
    assert usage == Usage(7, 2, COST, is_estimated=False)


@pytest.mark.parametrize("options", [{"include_usage": False}, {"include_usage": None}, {"x": 1}, None])
async def test_the_callers_other_stream_options_stay(options: Any) -> None:
    model, asked = Model(says(200, TOKEN + END + REPORT + DONE, EVENTS)), question(stream_options=options)
    shown, _ = await streamed(await model.answers.stream(asked), asked)
    assert model.asked[0]["stream_options"] == (options or {}) | {"include_usage": True}
    assert REPORT not in shown


async def test_a_stream_without_usage_is_estimated_and_marked() -> None:
    model, asked = Model(says(200, TOKEN * 3 + END + DONE, EVENTS)), question()
    _, usage = await streamed(await model.answers.stream(asked), asked)
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.is_estimated) == (PROMPT_TOKENS, 4, True)
    assert usage.cost_usd == pytest.approx((PROMPT_TOKENS + 4 * 2) / 1e6)


async def test_a_stream_that_breaks_has_used_what_passed() -> None:
    model, asked = Model(says(200, TOKEN * 3, EVENTS)), question()
    stream = await model.answers.stream(asked)
    with pytest.raises(ServiceError):
        await whole(stream)
    shown, usage = take_comment(stream.trailer())
    assert shown == b""
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.is_estimated) == (PROMPT_TOKENS, 3, True)
    await stream.close(None)


async def test_a_stream_that_its_caller_leaves_has_used_what_passed() -> None:
    model, asked = Model(says(200, TOKEN * 3 + END + REPORT + DONE, EVENTS)), question()
    stream = await model.answers.stream(asked)
    await anext(stream.events)
    await stream.close(ClientGone("gone"))
    total = asked.meter.total()
    assert total is not None
    assert total.input_tokens > 0
    assert asked.meter.log_fields()["target"] == "here"


async def test_a_whole_answer_has_used_what_its_upstream_says() -> None:
    body = json.dumps({"id": "c-1", "choices": [], "usage": USAGE}).encode()
    model, asked = Model(says(200, body)), question()
    assert (await model.answers.whole(asked)).body == body
    assert asked.meter.total() == Usage(7, 2, COST, is_estimated=False)


async def test_a_whole_answer_without_usage_is_estimated_and_marked() -> None:
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "x" * 40}}]}).encode()
    model, asked = Model(says(200, body)), question()
    await model.answers.whole(asked)
    total = asked.meter.total()
    assert total is not None
    assert (total.input_tokens, total.output_tokens, total.is_estimated) == (PROMPT_TOKENS, 10, True)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body"), [(400, b"{}"), (503, b"{}"), (401, b"{}"), (200, b'{"error":{"message":"no"}}')]
)
async def test_what_the_upstream_refused_has_used_nothing(status: int, body: bytes, is_stream: bool) -> None:
    asked = question()
    model = Model(*[says(status, body, {"retry-after": "0", "content-type": "application/json"})] * 3)
    with pytest.raises(ServiceError):
        await (model.answers.stream(asked) if is_stream else model.answers.whole(asked))
    assert asked.meter.total() is None


async def test_attempts_that_may_have_run_count_with_the_one_that_answered() -> None:
    body = json.dumps({"choices": [], "usage": USAGE}).encode()
    asked = question()
    await Model(times_out, says(200, body)).answers.whole(asked)
    total = asked.meter.total()
    assert total is not None
    assert (total.input_tokens, total.output_tokens, total.is_estimated) == (7 + PROMPT_TOKENS, 2, True)
    assert total.cost_usd == pytest.approx(COST + PROMPT_TOKENS / 1e6)


def times_out() -> Any:
    raise httpx2.ReadTimeout("silent")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_spans_say_what_was_used_by_whom(is_stream: bool) -> None:
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    body = json.dumps({"id": "c-1", "model": "m-1", "choices": [choice], "usage": USAGE}).encode()
    model = Model(says(200, FIRST + END + REPORT + DONE, EVENTS) if is_stream else says(200, body))
    asked = question()
    if is_stream:
        await streamed(await model.answers.stream(asked), asked)
    else:
        await model.answers.whole(asked)
    attributes = model.spans["chat sim-small"].attributes
    assert attributes is not None
    expected = {
        "gen_ai.response.id": "c-1",
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "spillway.usage.is_estimated": False,
    }
    assert {name: attributes.get(name) for name in expected} == expected
    assert attributes["spillway.cost_usd"] == pytest.approx(COST)
    assert ("gen_ai.response.time_to_first_chunk" in attributes) is is_stream
