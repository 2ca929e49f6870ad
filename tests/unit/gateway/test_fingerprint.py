from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.call import CHAT, EMBEDDINGS
from gateway.fingerprint import NEUTRAL, fingerprint
from gateway.sealing import Sealer

SECRET = b"a key of thirty-two bytes, no more"
BODY: dict[str, Any] = {
    "model": "sim-small",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0.5,
    "seed": 1,
}


def name(body: dict[str, Any], tenant: str = "alice", endpoint: str = CHAT, secret: bytes = SECRET) -> str:
    return fingerprint(secret, tenant=tenant, endpoint=endpoint, body=body)


def test_the_name_of_an_entry_does_not_change_from_version_to_version() -> None:
    assert name(BODY) == "6db71cad44c30c23f4eedc5de20685c4cec0117887a69a5f8f8b3be03a1bdc46"


def test_the_tenant_the_endpoint_and_the_secret_are_part_of_the_name() -> None:
    names = {name(BODY), name(BODY, tenant="bob"), name(BODY, endpoint=EMBEDDINGS), name(BODY, secret=b"another")}
    assert len(names) == 4


def test_a_boundary_that_moves_makes_another_name() -> None:
    assert name({}, tenant="a", endpoint="bc") != name({}, tenant="ab", endpoint="c")


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)
SHAPING = TEXT.filter(lambda field: field not in NEUTRAL)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(body=st.dictionaries(SHAPING, VALUES, max_size=5), field=SHAPING, value=VALUES)
def test_any_change_of_a_field_that_shapes_the_answer_changes_the_name(
    body: dict[str, Any], field: str, value: Any
) -> None:
    assume(field not in body or repr(body[field]) != repr(value))
    # An infinity has no JSON of its own; the strict parser never lets one come here.
    assume("inf" not in repr(value) and "inf" not in repr(body))
    assume(shuffled(body.get(field, ...)) != value or repr(shuffled(body.get(field))) != repr(value))
    assert name(body | {field: value}) != name(body)


@given(body=st.dictionaries(SHAPING, VALUES, max_size=5), field=SHAPING)
def test_a_field_that_goes_changes_the_name(body: dict[str, Any], field: str) -> None:
    assert name(body | {field: "x"}) != name({key: value for key, value in body.items() if key != field})


@given(st.dictionaries(TEXT, VALUES, max_size=6))
def test_the_order_of_keys_does_not_change_the_name(body: dict[str, Any]) -> None:
    assert name(shuffled(body)) == name(body)


@given(body=st.dictionaries(TEXT, VALUES, max_size=5), field=st.sampled_from(sorted(NEUTRAL)), value=VALUES)
def test_a_neutral_field_does_not_change_the_name(body: dict[str, Any], field: str, value: Any) -> None:
    without = {key: item for key, item in body.items() if key != field}
    assert name(without | {field: value}) == name(without)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"seed": 1}, {"seed": 1.0}),
        ({"seed": 1}, {"seed": True}),
        ({"seed": 1}, {"seed": "1"}),
        ({"stop": None}, {}),
        ({"content": "e\u0301"}, {"content": "\u00e9"}),
        ({"content": "a\u200b"}, {"content": "a"}),
        ({"a_field_nobody_knows": 1}, {}),
    ],
)
def test_requests_that_look_alike_are_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert name(BODY | one) != name(BODY | other)


def test_a_neutral_name_inside_a_message_is_not_neutral() -> None:
    assert name(BODY | {"messages": [{"role": "user", "user": "a"}]}) != name(
        BODY | {"messages": [{"role": "user", "user": "b"}]}
    )


def test_the_key_of_names_is_not_the_secret_that_seals() -> None:
    assert Sealer("a-secret-of-the-gateway").fingerprint_key != b"a-secret-of-the-gateway"
