"""What the simulated model says."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from simulator import chat
from simulator.answers import DONE, Answer, choices

FORCED: dict[str, Any] = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ],
    "tool_choice": "required",
}


def answer(seed: str = "seed", length: int = 6, **body: Any) -> Answer:
    request = chat.read({"messages": [{"role": "user", "content": "Say something"}]} | body)
    said = choices(request, seed, length)
    tool = request.tool_call.name if request.tool_call else None
    return Answer("chatcmpl-sim-1", 0, "sim-small", request.prompt_tokens, said, tool)


def body_of(given: Answer) -> Any:
    return orjson.loads(given.body())


def text_of(given: Answer) -> str:
    return str(body_of(given)["choices"][0]["message"]["content"])


def chunks_of(given: Answer, *, include_usage: bool = False) -> list[Any]:
    *events, done = given.events(include_usage=include_usage)
    assert done == DONE
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [orjson.loads(event[6:]) for event in events]


def test_the_same_seed_says_the_same_and_another_seed_something_else() -> None:
    assert text_of(answer("a")) == text_of(answer("a"))
    assert text_of(answer("a")) != text_of(answer("b"))


def test_the_length_is_that_of_the_script_and_the_usage_agrees() -> None:
    said = body_of(answer(length=6))
    assert len(said["choices"][0]["message"]["content"].split()) == 6
    assert said["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    assert said["choices"][0]["finish_reason"] == "stop"


def test_a_shorter_answer_is_the_beginning_of_a_longer_one() -> None:
    assert text_of(answer(length=60)).startswith(text_of(answer(length=6)))


@pytest.mark.parametrize(("limit", "reason"), [(5, "length"), (6, "stop"), (7, "stop")])
def test_the_limit_on_tokens_shortens_the_answer_and_says_so(limit: int, reason: str) -> None:
    said = body_of(answer(length=6, max_tokens=limit))
    assert said["choices"][0]["finish_reason"] == reason
    assert said["usage"]["completion_tokens"] == min(limit, 6)


def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    whole = text_of(answer())
    stopped = answer(stop=[whole.split()[4], " " + whole.split()[2]])
    assert text_of(stopped) == " ".join(whole.split()[:2])
    assert body_of(stopped)["usage"]["completion_tokens"] == 2


def test_a_stop_sequence_at_the_very_start_leaves_an_empty_answer_with_one_chunk() -> None:
    stopped = answer(stop=text_of(answer())[0])
    assert text_of(stopped) == ""
    assert [chunk["choices"][0]["delta"] for chunk in chunks_of(stopped)] == [{"role": "assistant", "content": ""}]


def test_every_choice_says_something_of_its_own_and_all_are_counted() -> None:
    said = body_of(answer(n=3))
    assert len({choice["message"]["content"] for choice in said["choices"]}) == 3
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2]
    assert said["usage"]["completion_tokens"] == 18


@pytest.mark.parametrize("length", [1, 2, 6])
def test_a_stream_says_what_the_whole_answer_says_one_token_a_chunk(length: int) -> None:
    given = answer(length=length)
    chunks = [chunk["choices"][0] for chunk in chunks_of(given)]
    assert "".join(chunk["delta"]["content"] for chunk in chunks) == text_of(given)
    assert len(chunks) == length
    assert [chunk["delta"].get("role") for chunk in chunks] == ["assistant", *[None] * (length - 1)]
    assert [chunk["finish_reason"] for chunk in chunks] == [*[None] * (length - 1), "stop"]


def test_the_choices_of_a_stream_take_turns() -> None:
    assert [chunk["choices"][0]["index"] for chunk in chunks_of(answer(length=2, n=2))] == [0, 1, 0, 1]


def test_usage_comes_last_in_a_stream_and_only_when_asked_for() -> None:
    given = answer()
    *content, last = chunks_of(given, include_usage=True)
    assert (last["choices"], last["usage"]) == ([], given.usage())
    assert all(chunk["usage"] is None for chunk in content)
    assert all("usage" not in chunk for chunk in chunks_of(given))


def test_a_forced_tool_gets_arguments_that_fit_its_schema() -> None:
    choice = body_of(answer(**FORCED))["choices"][0]
    function = choice["message"]["tool_calls"][0]["function"]
    assert function["name"] == "weather"
    assert orjson.loads(function["arguments"]) == {"city": ""}
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


def test_a_streamed_tool_call_adds_up_to_the_whole_one() -> None:
    given = answer(**FORCED)
    chunks = [chunk["choices"][0] for chunk in chunks_of(given)]
    calls = [chunk["delta"]["tool_calls"][0] for chunk in chunks]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": ""}'
    assert [call.get("id") for call in calls] == ["call-sim-1", None]
    assert [chunk["finish_reason"] for chunk in chunks] == [None, "tool_calls"]


def test_json_mode_answers_an_object() -> None:
    assert isinstance(orjson.loads(text_of(answer(response_format={"type": "json_object"}))), dict)


def test_a_schema_is_answered_by_an_instance_of_it() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 18}}, "required": ["age"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    assert orjson.loads(text_of(answer(response_format=wanted))) == {"age": 18}


def test_a_schema_of_nothing_but_null_is_answered_by_null() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "nothing", "schema": {"type": "null"}}}
    assert text_of(answer(response_format=wanted)) == "null"


def test_every_answer_says_that_it_is_simulated() -> None:
    given = answer()
    marks = {body_of(given)["system_fingerprint"]}
    marks |= {chunk["system_fingerprint"] for chunk in chunks_of(given, include_usage=True)}
    assert marks == {"spillway-simulator"}
