"""Embeddings: unit vectors from text."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.embeddings import body, read, vector
from simulator.errors import InvalidRequest


def embedded(**fields: Any) -> Any:
    return orjson.loads(body(read(fields, default_dimensions=8), "sim-embed"))


@given(item=st.binary(), dimensions=st.integers(1, 64))
def test_a_vector_has_length_one(item: bytes, dimensions: int) -> None:
    assert math.isclose(math.hypot(*vector(item, dimensions)), 1, abs_tol=1e-5)


def test_even_a_hash_of_nothing_but_zeros_gives_a_vector() -> None:
    assert abs(vector(b"62702", 1)[0]) == 1  # SHAKE-128 of this begins with two zero bytes


def test_equal_texts_have_equal_vectors_and_others_do_not() -> None:
    first, second, third = (item["embedding"] for item in embedded(input=["a", "b", "a"])["data"])
    assert first == third != second


def test_the_request_may_ask_for_a_number_of_dimensions() -> None:
    assert len(embedded(input="a")["data"][0]["embedding"]) == 8
    assert len(embedded(input="a", dimensions=3)["data"][0]["embedding"]) == 3


def test_base64_carries_the_same_floats() -> None:
    plain = embedded(input="a")["data"][0]["embedding"]
    packed = embedded(input="a", encoding_format="base64")["data"][0]["embedding"]
    assert array("f", base64.b64decode(packed)).tolist() == plain


@pytest.mark.parametrize(
    ("given_input", "vectors", "counted"),
    [("one two", 1, 2), (["one two", "three"], 2, 3), ([5, 6, 7], 1, 3), ([[5, 6], [7]], 2, 3)],
)
def test_texts_and_tokens_are_taken_alone_and_in_lists(given_input: Any, vectors: int, counted: int) -> None:
    answer = embedded(input=given_input)
    assert [item["index"] for item in answer["data"]] == list(range(vectors))
    assert answer["usage"] == {"prompt_tokens": counted, "total_tokens": counted}
    assert answer["system_fingerprint"] == "spillway-simulator"


def test_a_directive_is_found_in_whichever_input_it_is() -> None:
    assert read({"input": ["a", "b [[sim status=400]]", "[[sim]]"]}, 8).script == "b [[sim status=400]]"
    assert read({"input": ["a", "[[simple]]"]}, 8).script == ""
    assert read({"input": [[1], [2]]}, 8).script == ""


def test_usage_is_left_out_on_command() -> None:
    assert b"usage" not in body(read({"input": "a"}, 8), "sim-embed", has_usage=False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 2_049}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", [1]]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_malformed_request_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(fields, default_dimensions=8)
    assert refused.value.param == param
