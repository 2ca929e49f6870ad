"""What a chat request may hold."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.chat import ToolCall, read
from simulator.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello there"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def test_unknown_fields_are_ignored() -> None:
    assert read({"messages": HELLO, "wibble": [{}]}) == read({"messages": HELLO})


def test_the_prompt_is_counted_over_all_messages_and_text_parts() -> None:
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "x"}}]
    request = read({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]})
    assert request.prompt_tokens == 4


def test_the_directive_is_looked_for_in_the_last_user_message() -> None:
    messages = [*HELLO, {"role": "user", "content": "last"}, {"role": "assistant", "content": None}]
    assert read({"messages": messages}).last_user_text == "last"


def test_the_newer_name_of_the_limit_wins() -> None:
    assert read({"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 3}).max_tokens == 3


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        ("required", "weather"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
    ],
)
def test_a_tool_is_called_when_the_choice_forces_it(choice: object, called: str | None) -> None:
    request = read({"messages": HELLO, "tools": [WEATHER, CLOCK], "tool_choice": choice})
    assert request.tool_call == (ToolCall(called, {}) if called else None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"n": "3"}, "n"),
        ({"n": 129}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": "1"}, "top_p"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 7}, "stop"),
        ({"tools": {}, "tool_choice": "auto"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [CLOCK], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"function": {"name": "weather"}}}, "tool_choice"),
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "spoon"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": []}}}],
                "tool_choice": "required",
            },
            "tools[0].function.parameters",
        ),
    ],
)
def test_a_malformed_request_is_refused_by_the_name_of_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body if param.startswith("messages") else {"messages": HELLO} | body)
    assert refused.value.param == param
