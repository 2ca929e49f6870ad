from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.embeddings import body_of, entries_of, items_of, kept_item


def answer(count: int, usage: Any = None, **further: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": [float(index), 0.5]} for index in range(count)]
    return json.dumps({"object": "list", "model": "m", "data": data, "usage": usage, **further}).encode()


@pytest.mark.parametrize(
    ("asked", "items"),
    [("a", ["a"]), (["a"], ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1, 2], [3]], [[1, 2], [3]])],
)
def test_each_form_of_input_is_a_list_of_items(asked: Any, items: list[Any]) -> None:
    assert items_of(asked) == items


def test_a_batch_that_is_put_together_from_its_entries_is_the_upstreams() -> None:
    usage = {"prompt_tokens": 10, "total_tokens": 10}
    body = answer(3, usage)
    entries = entries_of(body, ["one", "three", "four"])
    assert json.loads(body_of([kept_item(entry) for entry in entries])) == json.loads(body)


@given(total=st.integers(0, 10_000), items=st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=20))
def test_the_tokens_of_a_batch_are_divided_by_length_and_add_up(total: int, items: list[str]) -> None:
    entries = entries_of(answer(len(items), {"prompt_tokens": total, "total_tokens": total}), items)
    shares = [entry["tokens"] for entry in entries]
    pairs = zip(shares, items, strict=True)
    assert sum(shares) == total
    assert all(abs(share - total * len(item) / sum(map(len, items))) <= 1 for share, item in pairs)


def test_without_usage_nobody_makes_one_up() -> None:
    entries = entries_of(answer(1), ["a"])
    assert "usage" not in json.loads(body_of([kept_item(entry) for entry in entries]))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", answer(1), answer(3), b'{"data":[{"index":0},{"index":1}]}', b'{"data":[1,2]}']
)
def test_an_answer_that_is_not_one_vector_an_item_is_not_kept(body: bytes) -> None:
    assert entries_of(body, ["a", "b"]) == []


def test_vectors_that_come_in_another_order_are_put_in_theirs() -> None:
    shuffled = json.loads(answer(2))
    shuffled["data"].reverse()
    entries = entries_of(json.dumps(shuffled).encode(), ["a", "b"])
    assert [entry["item"]["embedding"][0] for entry in entries] == [0.0, 1.0]
