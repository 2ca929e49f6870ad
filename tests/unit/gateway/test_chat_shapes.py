from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from common.streams import sse
from gateway.answers.chat_shapes import NotAChatAnswerError, completion_of, events_of, split, without_usage
from gateway.caching.kept_chat import PACE_S, as_events, as_whole, kept_stream, kept_whole, replay

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}


def completion(*choices: dict[str, Any], **further: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "m", "system_fingerprint": "fp"}
    return head | {"choices": list(choices), "usage": USAGE} | further


def choice(index: int = 0, finish_reason: str = "stop", logprobs: Any = None, **message: Any) -> dict[str, Any]:
    whole = {"role": "assistant", "content": None, "refusal": None} | message
    return {"index": index, "message": whole, "logprobs": logprobs, "finish_reason": finish_reason}


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


CITATION = {
    "type": "url_citation",
    "url_citation": {"start_index": 0, "end_index": 1, "title": "a", "url": "https://example.org"},
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
CALLS = st.lists(st.builds(call, st.integers(0, 9), st.sampled_from(["weather", "time"]), TEXT), min_size=1, max_size=3)
MESSAGES = (
    st.fixed_dictionaries({"content": TEXT})
    | st.fixed_dictionaries({"refusal": TEXT})
    | st.fixed_dictionaries({"tool_calls": CALLS})
    | st.fixed_dictionaries({"content": TEXT, "tool_calls": CALLS})
    | st.fixed_dictionaries({"content": TEXT, "reasoning_content": TEXT, "annotations": st.just([CITATION])})
)
FINISHES = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    choices = [
        choice(index, draw(FINISHES), **draw(MESSAGES)) for index in range(draw(st.integers(min_value=1, max_value=3)))
    ]
    return completion(*choices, service_tier="default", a_field_nobody_knows={"x": [1]})


def accumulated_by_the_sdk(events: list[bytes]) -> ChatCompletion:
    state: Any = ChatCompletionStreamState()
    for event in events:
        state.handle_chunk(ChatCompletionChunk.model_validate(json.loads(event.removeprefix(b"data: "))))
    snapshot: ChatCompletion = state.current_completion_snapshot
    return snapshot


def said(answer: ChatCompletion) -> list[tuple[Any, ...]]:
    return [
        (
            one.index,
            one.finish_reason,
            one.message.content or None,
            one.message.refusal or None,
            [
                (c.id, c.function.name, c.function.arguments)
                for c in one.message.tool_calls or ()
                if c.type == "function"
            ],
        )
        for one in answer.choices
    ]


@given(completions())
def test_a_completion_that_becomes_a_stream_and_comes_back_is_the_same(whole: dict[str, Any]) -> None:
    events = events_of(whole, include_usage=True)
    assert completion_of(b"".join(events)) == whole


@given(completions())
def test_the_sdk_makes_the_same_of_the_stream_as_of_the_completion(whole: dict[str, Any]) -> None:
    events = events_of(whole, include_usage=True)
    streamed = accumulated_by_the_sdk(events)
    assert said(streamed) == said(ChatCompletion.model_validate(whole))
    assert streamed.usage is not None
    assert streamed.usage.model_dump(exclude_none=True) == USAGE


@pytest.mark.parametrize("tokens", [["Hel", "lo ", "you"], ["not", "the", "text"]])
def test_log_probabilities_go_with_their_tokens_and_are_all_there(tokens: list[str]) -> None:
    logprobs = {"content": [token(text) for text in tokens], "refusal": None}
    whole = completion(choice(content="Hello you", logprobs=logprobs))
    events = events_of(whole, include_usage=False)
    again = completion_of(b"".join(events))
    assert again["choices"][0]["logprobs"]["content"] == logprobs["content"]
    assert again["choices"][0]["message"]["content"] == "Hello you"
    streamed = accumulated_by_the_sdk(events).choices[0].logprobs
    assert streamed is not None
    assert [one.token for one in streamed.content or ()] == tokens


def test_a_text_comes_in_pieces_and_a_long_one_in_not_too_many() -> None:
    short = events_of(completion(choice(content="one two three")), include_usage=False)
    assert len(short) == 5  # role, three words, finish
    long = events_of(completion(choice(content="word " * 10_000)), include_usage=False)
    assert len(long) <= 520


def test_the_old_function_call_survives() -> None:
    whole = completion(choice(function_call={"name": "f", "arguments": "{}"}, finish_reason="function_call"))
    again = completion_of(b"".join(events_of(whole, include_usage=True)))
    assert again["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}


def test_usage_is_in_a_stream_if_it_was_asked_for_and_nowhere_else() -> None:
    whole = completion(choice(content="hi"))
    asked = events_of(whole, include_usage=True)
    assert json.loads(asked[-1].removeprefix(b"data: "))["usage"] == USAGE
    assert all(json.loads(event.removeprefix(b"data: "))["usage"] is None for event in asked[:-1])
    assert b"".join(events_of(whole, include_usage=False)) == without_usage(b"".join(asked))


def test_words_about_usage_in_an_answer_are_left_alone() -> None:
    text = 'say ,"usage":null and "usage":{"a":1} please'
    events = events_of(completion(choice(content=text)), include_usage=True)
    assert completion_of(without_usage(b"".join(events)))["choices"][0]["message"]["content"] == text


def test_a_tool_call_whose_upstream_repeats_its_id_and_sends_empty_names_is_still_one_call() -> None:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        part = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse.event(json.dumps({"id": "1", "model": "m", "created": 1, "choices": [part]}).encode())

    def piece(name: str, arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": "a", "function": {"name": name, "arguments": arguments}}]}

    whole = completion_of(chunk(piece("f", '{"x":')) + chunk(piece("", "1}")) + chunk({}, "tool_calls"))
    (said_call,) = whole["choices"][0]["message"]["tool_calls"]
    assert said_call == {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}


def test_events_are_told_apart_whatever_their_line_ends_and_comments_are_none() -> None:
    one = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}'
    for end in (b"\n\n", b"\r\n\r\n"):
        events = b": ping" + end + one + end + one + end
        assert len(split(events)) == 3
        assert completion_of(events)["choices"][0]["message"]["content"] == "aa"


@pytest.mark.parametrize(
    "events",
    [
        b"",
        b"data: {}\n\n",
        b'data: {"choices":[]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"delta":{}}]}\n\n',
        b'data: {"choices":["x"]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: {"a"\n\n',
        b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\ndata: {"error":{"message":"x"}}\n\n',
        b'data: 1,2\n\ndata: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n',
    ],
)
def test_what_is_no_complete_stream_is_not_kept(events: bytes) -> None:
    with pytest.raises(NotAChatAnswerError):
        kept_stream(events)


@pytest.mark.parametrize("broken", [{}, {"choices": None}, {"choices": [1]}, {"choices": [{"index": 0}]}])
def test_what_is_no_completion_becomes_no_stream(broken: dict[str, Any]) -> None:
    with pytest.raises(NotAChatAnswerError):
        events_of(broken, include_usage=False)


def test_both_kept_shapes_answer_both_asked_ones_and_the_same_shape_byte_for_byte() -> None:
    whole = completion(choice(content="hi you"))
    body = json.dumps(whole).encode()
    events = b"".join(events_of(whole, include_usage=True))
    assert as_whole(kept_whole(body)) == body
    assert as_events(kept_stream(events), include_usage=True) == events
    assert json.loads(as_whole(kept_stream(events))) == whole
    assert as_events(kept_whole(body), include_usage=True) == events


async def test_a_paced_replay_waits_between_its_events_and_a_plain_one_does_not() -> None:
    events = b"".join(events_of(completion(choice(content="one two")), include_usage=False))
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    paced = [piece async for piece in replay(events, is_paced=True, sleep=sleep)]
    assert waits == [PACE_S] * 4
    assert len(paced) == 5
    plain = [piece async for piece in replay(events, is_paced=False, sleep=sleep)]
    assert b"".join(plain) == b"".join(paced) == events + sse.DONE
    assert len(waits) == 4
