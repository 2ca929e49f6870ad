from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.caching.fingerprint import MODEL_DIGITS, NEUTRAL, fingerprint, model_digits
from gateway.caching.sealing import Sealer
from gateway.call import CHAT, EMBEDDINGS
from support.chaos import times

SECRET = b"a key of thirty-two bytes, no more"
BODY: dict[str, Any] = {
    "model": "sim-small",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0.5,
    "seed": 1,
}


def name(
    body: dict[str, Any], tenant: str = "alice", endpoint: str = CHAT, secret: bytes = SECRET, revision: str = ""
) -> str:
    return fingerprint(secret, tenant=tenant, endpoint=endpoint, body=body, revision=revision)


def test_the_name_of_an_entry_does_not_change_from_version_to_version() -> None:
    assert name(BODY) == "a6b77bf0e334595f427e91d1ea4346a1e5e1c118c814adb5b26ed70edfca3842"


def test_the_tenant_the_endpoint_the_secret_and_the_catalogues_revision_are_part_of_the_name() -> None:
    names = {
        name(BODY),
        name(BODY, tenant="bob"),
        name(BODY, endpoint=EMBEDDINGS),
        name(BODY, secret=b"another"),
        name(BODY, revision="2"),
    }
    assert len(names) == 5


def test_a_name_begins_with_its_models_digits_whoever_asked_for_what() -> None:
    names = [name(BODY), name(BODY, tenant="bob"), name(BODY | {"seed": 2}), name(BODY, endpoint=EMBEDDINGS)]
    assert {one[:MODEL_DIGITS] for one in names} == {model_digits(SECRET, "sim-small")}
    assert model_digits(SECRET, "sim-large") != model_digits(SECRET, "sim-small") != model_digits(b"x", "sim-small")
    assert all(len(one) == 64 for one in names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"seed": 1}, {"seed": 1.0}),
        ({"temperature": 0}, {"temperature": -0.0}),
        ({"seed": 100}, {"seed": 1e2}),
        ({"seed": 2**53}, {"seed": float(2**53)}),
        ({"a": [{"b": 5.0}, "v1.0"]}, {"a": [{"b": 5}, "v1.0"]}),
    ],
)
def test_a_number_has_one_name_however_it_is_written(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert name(BODY | one) == name(BODY | other)


def test_a_boundary_that_moves_makes_another_name() -> None:
    assert name({}, tenant="a", endpoint="bc") != name({}, tenant="ab", endpoint="c")


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=8,
)
SHAPING = TEXT.filter(lambda field: field not in NEUTRAL)


def meant(value: Any) -> Any:
    """The value told apart from those that mean something else, by other means than the code under test."""
    if isinstance(value, dict):
        return sorted((key, meant(item)) for key, item in value.items()), "object"
    if isinstance(value, list):
        return [meant(item) for item in value], "array"
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53:
        return Fraction(value), "number"
    return repr(value), type(value).__name__


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@pytest.mark.chaos
@settings(max_examples=times(100, 20_000))
@given(body=st.dictionaries(SHAPING, VALUES, max_size=5), field=SHAPING, value=VALUES)
def test_any_change_of_a_field_that_shapes_the_answer_changes_the_name(
    body: dict[str, Any], field: str, value: Any
) -> None:
    # An infinity has no JSON of its own; the strict parser never lets one come here.
    assume("inf" not in repr(value) and "inf" not in repr(body))
    assume(field not in body or meant(body[field]) != meant(value))
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
        ({"seed": 1}, {"seed": 1.5}),
        ({"seed": 1.0}, {"seed": True}),
        ({"seed": "1.0"}, {"seed": "1"}),
        ({"seed": 2**53 + 1}, {"seed": float(2**53)}),
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
