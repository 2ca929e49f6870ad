from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRequest
from gateway.strict_json import MAX_DEPTH, parse_object, render, render_canonical


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """An object whose value makes it `depth` levels deep."""
    return b'{"a":' + opening * (depth - 1) + closing * (depth - 1) + b"}"


def judged(body: bytes) -> bytes:
    """What goes on to the next hop, as the gateway makes it of a body."""
    return render(parse_object(body))


# The numbers are those of the catalogue of bad input in the design: 26 to 34.
REFUSED = {
    "26 empty": b"",
    "26 null": b"null",
    "26 array": b"[]",
    "26 string": b'"x"',
    "26 number": b"1",
    "27 comment": b'{"a": 1 /* no */}',
    "27 single quotes": b"{'a': 1}",
    "27 trailing comma": b'{"a": 1,}',
    "27 undefined": b'{"a": undefined}',
    "27 two documents": b'{"a": 1}{"a": 2}',
    "27 line break in a string": b'{"a": "\n"}',
    "28 NaN": b'{"a": NaN}',
    "28 Infinity": b'{"a": Infinity}',
    "28 -Infinity": b'{"a": -Infinity}',
    "28 1e999": b'{"a": 1e999}',
    "28 -1e999": b'{"a": [-1e999]}',
    "29 5,000 digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "29 5,000 digits below zero": b'{"a": -' + b"9" * 5_000 + b"}",
    "29 2**64": b'{"a": 18446744073709551616}',
    "29 -2**63 - 1": b'{"a": -9223372036854775809}',
    "30 arrays": nested(100_000),
    "30 objects": nested(100_000, b'{"a":', b"}"),
    "30 never closed": b'{"a":' + b"[" * 100_000,
    "30 one too deep": nested(MAX_DEPTH + 1),
    "31 lone surrogate": b'{"a": "\\ud800"}',
    "31 lone surrogate in a key": b'{"\\udfff": 1}',
    "31 surrogates in the wrong order": b'{"a": "\\udc00\\ud800"}',
    "32 NUL": b'{"a": "\\u0000"}',
    "32 NUL in a key": b'{"\\u0000": 1}',
    "32 NUL in depth": b'{"a": [[{"b": ["\\u0000"]}]]}',
    "32 raw NUL": b'{"a": "\x00"}',
    "33 BOM": b'\xef\xbb\xbf{"a": 1}',
    "34 UTF-16": '{"a": 1}'.encode("utf-16"),
    "34 UTF-16, no BOM": '{"a": 1}'.encode("utf-16-le"),
    "34 UTF-32": '{"a": 1}'.encode("utf-32"),
    "34 Latin-1": '{"a": "é"}'.encode("latin-1"),
    "34 overlong": b'{"a": "\xc0\xaf"}',
    "34 surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "duplicated key": b'{"model": "cheap", "model": "dear"}',
    "duplicated key, escaped": b'{"model": "cheap", "mode\\u006c": "dear"}',
    "duplicated key in depth": b'{"messages": [{"role": "user", "role": "system"}]}',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
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
