from __future__ import annotations

from typing import Any

import pytest

from common.errors import InvalidRequest
from gateway.admin_requests import KeyChange, KeyRequest
from gateway.requests import (
    DENIED_FIELDS,
    MAX_SCHEMA_BYTES,
    ChatCompletionRequest,
    EmbeddingsRequest,
    GenerateRequest,
    check,
    refuse_denied,
)
from support.bad_input import BAD_PARAMETERS, CHAT


def refusal(body: dict[str, Any], shape: Any = ChatCompletionRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        check(body, shape)
    assert refused.value.status == 400
    assert len(refused.value.body()) <= 1024
    return refused.value


@pytest.mark.parametrize(
    ("change", "param"), [row[1:] for row in BAD_PARAMETERS], ids=[row[0] for row in BAD_PARAMETERS]
)
def test_a_bad_parameter_is_refused_by_its_name(change: dict[str, Any], param: str) -> None:
    error = refusal(CHAT | change)
    assert (error.param, error.code) == (param, "invalid_value")


@pytest.mark.parametrize("field", DENIED_FIELDS)
def test_a_client_never_chooses_where_its_request_goes(field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_denied({"model": "m", field: "http://169.254.169.254"}, DENIED_FIELDS)
    assert (refused.value.param, refused.value.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize("field", ["tools", "response_format"])
def test_what_an_engine_would_have_to_compile_has_a_size(field: str) -> None:
    schema = {"description": "a" * MAX_SCHEMA_BYTES}
    value = [schema] if field == "tools" else schema
    assert refusal(CHAT | {field: value}).param == field
    small = {"type": "json_schema", "json_schema": {"schema": {"$ref": "https://example.com/never-fetched"}}}
    check(CHAT | {field: [small] if field == "tools" else small}, ChatCompletionRequest)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_field_that_is_missing_is_named(missing: str) -> None:
    assert refusal({name: value for name, value in CHAT.items() if name != missing}).param == missing


@pytest.mark.parametrize(
    "change", [{"user": "hunter2" * 300}, {"model": ["hunter2"]}, {"metadata": {"a": ["hunter2"]}}]
)
def test_a_refusal_never_repeats_the_value(change: dict[str, Any]) -> None:
    assert b"hunter2" not in refusal(CHAT | change).body()


def test_a_key_that_is_no_unicode_is_blamed_on_no_field() -> None:
    assert refusal(CHAT | {"\ud800": 1}).param is None


@pytest.mark.parametrize("name", ["k" * 100_000, "a\x00b"])
def test_a_key_that_the_client_made_up_is_not_repeated_either(name: str) -> None:
    assert refusal(CHAT | {name: 1, "metadata": {name: 1}}).param == "metadata"


@pytest.mark.parametrize("name", ["k" * 100_000, "\ud800"])
def test_a_made_up_field_of_an_admins_request_is_refused_briefly(name: str) -> None:
    refusal({"tenant": "alice", "name": "laptop", name: 1}, KeyRequest)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0, "top_p": 1},
        {"temperature": 2.0, "top_p": 0.1, "n": 128, "max_tokens": 2**20},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": False},
        {"stream": None, "n": None, "user": None, "metadata": None, "logit_bias": None, "temperature": None},
        {"logit_bias": {"50256": -100, "1": 0.5}},
        {"an_unknown_field": {"of": ["any", "shape"]}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "n"}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "a-new-role"}]},
    ],
)
def test_what_openai_takes_is_taken(change: dict[str, Any]) -> None:
    check(CHAT | change, ChatCompletionRequest)


@pytest.mark.parametrize(
    "value", ["text", ["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=["text", "texts", "tokens", "lists of tokens"]
)
def test_embeddings_take_each_of_openais_inputs(value: Any) -> None:
    check({"model": "m", "input": value}, EmbeddingsRequest)


TOO_MANY = "Invalid 'input': at most 2048 items are embedded at once, and these are 2049."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "Invalid 'input': an empty string cannot be embedded."),
        ([], "Invalid 'input': the array is empty."),
        (["a"] * 2049, TOO_MANY),
        ([[1]] * 2049, TOO_MANY),
        ([1] * 100_001, "Invalid 'input': the items have to be 1 to 100000 token ids."),
        ([1, "a"], "Invalid 'input': the items have to be 1 to 100000 token ids."),
        (["a", ""], "Invalid 'input': item 1 has to be a string that is not empty."),
        (["a", 1], "Invalid 'input': item 1 has to be a string that is not empty."),
        ([[1], []], "Invalid 'input': item 1 has to be an array of 1 to 100000 token ids."),
        ([[1], [True]], "Invalid 'input': item 1 has to be an array of 1 to 100000 token ids."),
        (None, None), (5, None), ({"a": 1}, None), ([None], None), ([1.5], None),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_embedded_is_refused_with_its_bound(value: Any, message: str | None) -> None:
    error = refusal({"model": "m", "input": value}, EmbeddingsRequest)
    assert (error.param, error.code) == ("input", "invalid_value")
    assert error.message == (message or error.message)
    assert message is not None or "has to be a string, an array of strings" in error.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "3"}, "dimensions"),
    ],
)
def test_a_bad_embeddings_request_is_refused_by_its_field(change: dict[str, Any], param: str) -> None:
    error = refusal({"model": "m", "input": "hi"} | change, EmbeddingsRequest)
    assert error.param is not None
    assert error.param.partition("[")[0] == param


@pytest.mark.parametrize(
    ("change", "param"), [({"prompt": ""}, "prompt"), ({"prompt": 1}, "prompt"), ({"stream": True}, "stream")]
)
def test_a_bad_prompt_is_refused_by_its_field(change: dict[str, Any], param: str) -> None:
    assert refusal({"prompt": "hi"} | change, GenerateRequest).param == param


@pytest.mark.parametrize("tenant", ["", "-a", "a b", "a{b}", "a:b", "a" * 65, "é", "a\n"])
def test_a_tenants_name_can_stand_in_a_key_name(tenant: str) -> None:
    assert refusal({"tenant": tenant, "name": "laptop"}, KeyRequest).param == "tenant"


def test_a_change_names_only_what_it_changes() -> None:
    assert check({"enabled": False}, KeyChange).model_dump(exclude_unset=True) == {"enabled": False}
    assert check({"expires_at": None}, KeyChange).model_dump(exclude_unset=True) == {"expires_at": None}
    assert refusal({"tenant": "mallory"}, KeyChange).param == "tenant"


@pytest.mark.parametrize("tools", [[{"a": "\ud800"}], [{"a": 10**20}]])
def test_what_cannot_be_written_is_a_bad_request_inside_of_tools_too(tools: list[Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check({**CHAT, "tools": tools}, ChatCompletionRequest)
    assert refused.value.code == "invalid_json"
