from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.joining import MAX_INPUT_BYTES, Part, UnsplittableError, joined, part_of, shares, split

TEXT = st.text(min_size=1, max_size=8)
TOKENS = st.lists(st.integers(0, 50_000), min_size=1, max_size=5)
TEXT_INPUT = TEXT | st.lists(TEXT, min_size=1, max_size=6)
TOKEN_INPUT = TOKENS | st.lists(TOKENS, min_size=1, max_size=6)


def request(given_input: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": given_input, **fields}


def part(given_input: Any, **fields: Any) -> Part:
    found = part_of(request(given_input, **fields), 32)
    assert found is not None
    return found


def vector_of(item: Any) -> list[float]:
    """What an embedding is here: something that depends on its input alone."""
    return [float(len(json.dumps(item))), *map(float, json.dumps(item).encode()[:4])]


def answer_to(body: dict[str, Any], order: list[int] | None = None, tokens: int = 0) -> dict[str, Any]:
    items = (
        body["input"] if isinstance(body["input"], list) and not isinstance(body["input"][0], int) else [body["input"]]
    )
    data = [{"object": "embedding", "index": place, "embedding": vector_of(item)} for place, item in enumerate(items)]
    return {
        "object": "list",
        "data": [data[place] for place in order] if order else data,
        "model": "m-1",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


@given(
    inputs=st.lists(TEXT_INPUT, min_size=1, max_size=6) | st.lists(TOKEN_INPUT, min_size=1, max_size=6),
    tokens=st.integers(0, 10_000),
    draw=st.data(),
)
def test_each_part_gets_the_vectors_of_its_own_inputs_and_all_usage_is_shared(
    inputs: list[Any], tokens: int, draw: st.DataObject
) -> None:
    parts = [part(given_input) for given_input in inputs]
    body = joined(request(inputs[0], user="u"), parts)
    assert set(body) == {"model", "input"}
    order = draw.draw(st.permutations(range(len(body["input"]))))
    answers = [json.loads(one) for one in split(json.dumps(answer_to(body, order, tokens)).encode(), parts)]
    for given_input, answer in zip(inputs, answers, strict=True):
        alone = answer_to(request(given_input))
        assert answer["data"] == alone["data"]
        assert (answer["object"], answer["model"]) == ("list", "m-1")
    for name in ("prompt_tokens", "total_tokens"):
        assert sum(answer["usage"][name] for answer in answers) == tokens


@given(total=st.integers(0, 10**9), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=40))
def test_shares_are_in_proportion_and_sum_exactly(total: int, weights: list[int]) -> None:
    found = shares(total, weights)
    assert sum(found) == total
    for share, weight in zip(found, weights, strict=True):
        assert abs(share * sum(weights) - total * weight) < sum(weights)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (request("a"), request("a", model="n")),
        (request("a"), request("a", encoding_format="base64")),
        (request("a", dimensions=8), request("a", dimensions=9)),
        (request("a"), request([1, 2])),
        (request("a"), request("a", x_unknown=1)),
    ],
)
def test_requests_that_differ_in_more_than_their_inputs_are_not_joined(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = part_of(one, 32), part_of(other, 32)
    assert first is not None
    assert second is not None
    assert first.fields != second.fields


def test_the_user_keeps_nobody_apart() -> None:
    assert part("a", user="alice").fields == part(["b", "c"], user="bob").fields == part("d").fields


@pytest.mark.parametrize(
    "given_input",
    [
        None,
        "",
        [],
        [""],
        ["a", 1],
        ["a", [1]],
        [[1], "a"],
        [[]],
        [1.5],
        [True],
        {},
        7,
        ["a"] * 32,
        "a" * MAX_INPUT_BYTES + "a",
    ],
)
def test_what_is_large_or_odd_goes_alone(given_input: Any) -> None:
    assert part_of(request(given_input), 32) is None


def vectors(*indexes: Any) -> bytes:
    return json.dumps({"data": [{"index": index, "embedding": [0.5]} for index in indexes]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": {}}',
        b'{"data": [1, 2]}',
        vectors(0),
        vectors(0, 1, 2),
        vectors(0, 0),
        vectors(0, 2),
        vectors(1, 2),
        vectors(0, "1"),
        vectors(0, None),
        vectors(*[0, True]),
    ],
)
def test_an_answer_that_does_not_say_which_vector_is_whose_is_not_split(answer: bytes) -> None:
    with pytest.raises(UnsplittableError):
        split(answer, [part("a"), part("b")])


def test_without_usage_there_is_none_to_share() -> None:
    assert all("usage" not in json.loads(one) for one in split(vectors(1, 0), [part("a"), part("b")]))
