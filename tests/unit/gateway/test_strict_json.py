from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRequest
from gateway.strict_json import MAX_DEPTH, parse_object, render, render_canonical
from support.bad_input import BAD_BODIES, nested


def judged(body: bytes) -> bytes:
    """What goes on to the next hop, as the gateway makes it of a body."""
    return render(parse_object(body))


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_some_parser_would_read_otherwise_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        judged(body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
    assert len(refused.value.body()) <= 1024


def test_a_refusal_never_quotes_the_body() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_object(b'{"a": "hunter2", hunter2}')
    assert b"hunter2" not in refused.value.body()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' \r\n\t{"a": [true, false, null, 1, -0.5, 1e22]} ',
        b'{"a": "\\ud83d\\ude00 \\u00e9 \xf0\x9f\x98\x80"}',
        b'{"a": 9223372036854775807, "b": -9223372036854775808, "c": 18446744073709551615}',
        b'{"a": "\\\\u0000"}',
        b'{"a": 5e-324}',
        nested(MAX_DEPTH),
        nested(MAX_DEPTH, b'{"a":', b"}").replace(b":}", b":0}"),
        '{"a": "\u200b\u202e\u200d e\u0301"}'.encode(),
        b'{"a": ' + json.dumps([[1]] * 100).encode() + b"}",
    ],
)
def test_a_body_that_every_parser_reads_alike_goes_on_with_the_same_meaning(body: bytes) -> None:
    assert json.loads(judged(body)) == json.loads(body)


# OpenAI's own parser and ours agree on numbers of at most 64 bits.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=4), children)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=4), JSON))
def test_any_object_survives_being_judged(value: dict[str, Any]) -> None:
    assert json.loads(judged(json.dumps(value).encode())) == value


@given(st.binary(max_size=100) | st.text(alphabet='{}[]":,0-+.eE\\ud8nNaIity ', max_size=100).map(str.encode))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        judged(body)


def test_the_canonical_bytes_do_not_depend_on_the_order_of_keys() -> None:
    assert render_canonical({"b": {"d": 1, "c": 2}, "a": 3}) == b'{"a":3,"b":{"c":2,"d":1}}'
