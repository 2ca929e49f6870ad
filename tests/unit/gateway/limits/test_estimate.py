"""What a call will use is guessed by its size, and never by reading it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.access.keys import NO_LIMITS
from gateway.call import EMBEDDINGS
from gateway.limits.estimate import declared_output_tokens, input_tokens
from support.limits import call_under


def _tokens(content: object) -> int:
    # Without its 4 for the message, and the 4 bytes of the role that every message has.
    call = call_under(NO_LIMITS, messages=[{"role": "user", "content": content}])
    return input_tokens(call) - 4 - 1


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("a" * 400, 100), ("a" * 401, 101), ("é" * 400, 200)])
def test_a_token_is_four_bytes_rounded_up(text: str, tokens: int) -> None:
    assert _tokens(text) == tokens


@pytest.mark.parametrize("medium", ["image_url", "input_audio", "file"])
def test_a_medium_counts_by_the_piece_and_not_by_its_bytes(medium: str) -> None:
    small = _tokens([{medium: {"data": "a"}}])
    assert small == 1_000
    assert _tokens([{medium: {"data": "a" * 1_000_000}}]) == small
    assert _tokens([{medium: {}}, {medium: {}}]) == 2 * small


def test_a_string_that_only_has_the_name_of_a_medium_counts_by_its_size() -> None:
    assert _tokens([{"file": "a" * 4_000}]) == 1_000


@pytest.mark.parametrize("field", ["tools", "functions", "response_format"])
def test_tools_and_formats_are_read_as_well(field: str) -> None:
    without = input_tokens(call_under(NO_LIMITS))
    body: dict[str, Any] = {field: [{"description": "a" * 400}]}
    assert input_tokens(call_under(NO_LIMITS, **body)) == without + 100


def test_what_no_model_reads_does_not_count() -> None:
    assert input_tokens(call_under(NO_LIMITS, user="a" * 4_000)) == input_tokens(call_under(NO_LIMITS))


def test_every_message_costs_a_little() -> None:
    call = call_under(NO_LIMITS, messages=[{"content": ""}] * 10)
    assert input_tokens(call) == 40


@pytest.mark.parametrize(
    ("given", "tokens"), [("a" * 40, 10), (["a" * 40] * 3, 30), ([1, 2, 3], 3), ([[1, 2], [3, 4, 5]], 5), ([], 1)]
)
def test_embeddings_count_text_by_size_and_tokens_by_number(given: object, tokens: int) -> None:
    assert input_tokens(call_under(NO_LIMITS, endpoint=EMBEDDINGS, messages=None, input=given)) == tokens


def test_a_deeply_nested_body_is_no_recursion() -> None:
    nested: object = "a" * 40
    for _ in range(5_000):
        nested = [nested]
    assert _tokens(nested) == 10


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": None}, None),
    ],
)
def test_output_is_what_the_caller_declares_for_all_choices(body: dict[str, Any], tokens: int | None) -> None:
    assert declared_output_tokens(call_under(NO_LIMITS, **body)) == tokens


def test_choices_are_those_of_the_body_by_whatever_door_it_came() -> None:
    call = replace(call_under(NO_LIMITS, max_tokens=7, n=3), choices=1)
    assert declared_output_tokens(call) == 21


def test_embeddings_write_nothing() -> None:
    assert declared_output_tokens(call_under(NO_LIMITS, endpoint=EMBEDDINGS, max_tokens=7)) == 0
