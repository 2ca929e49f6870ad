"""The smallest value a schema accepts; pydantic, which writes such schemas, is the judge."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from simulator.schema_instance import UnsatisfiableSchemaError, instance


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    name: Annotated[str, Field(min_length=3)]
    kind: Literal["leaf"]


class Tree(BaseModel):
    colour: Colour
    leaves: Annotated[list[Leaf], Field(min_length=2)]
    height: Annotated[float, Field(gt=0, lt=1)]
    rings: Annotated[int, Field(gt=4, multiple_of=3)]
    is_old: bool
    nothing: None
    parent: Tree | None
    either: Leaf | int
    pair: tuple[int, str]
    note: str = "optional"


def test_a_model_with_everything_in_it_accepts_its_instance() -> None:
    found = instance(Tree.model_json_schema())
    assert "note" not in found
    assert Tree.model_validate(found).rings == 6


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (True, None),
        ({}, None),
        ({"const": [1]}, [1]),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": ["string", "null"]}, ""),
        ({"type": "number", "minimum": 1.5}, 2),
        ({"type": "integer", "minimum": 1.5}, 2),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 0.3}, 0.5),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "array", "items": {"type": "boolean"}}, []),
        ({"minItems": 2, "items": {"type": "boolean"}}, [False, False]),
        ({"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"a": None}),
        ({"anyOf": [{"type": "spoon"}, {"type": "boolean"}]}, False),
        ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"const": 1}}, "type": "object"}]}, {"a": 1}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 5}}}, 5),
    ],
)
def test_a_schema_is_satisfied_by_the_simplest_value(schema: Any, value: Any) -> None:
    assert instance(schema) == value


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "must be an object or true"),
        ({"type": "spoon"}, "spoon"),
        ({"type": "integer", "minimum": 1, "maximum": 0}, "no number"),
        ({"type": "string", "pattern": "^a+$"}, "pattern"),
        ({"type": "string", "minLength": 10**9}, "minLength"),
        ({"type": "array", "minItems": 10**9}, "minItems"),
        ({"type": "array", "minItems": 2, "uniqueItems": True, "items": {"type": "integer"}}, "uniqueItems"),
        ({"$ref": "https://example.com/schema"}, "not local"),
        ({"$ref": "#/$defs/gone"}, "points nowhere"),
        ({"$ref": "#"}, "requires itself"),
        ({"properties": 5, "required": ["a"]}, "properties"),
        ({"required": [["a"]]}, "malformed"),
        ({"anyOf": []}, "anyOf"),
    ],
)
def test_what_cannot_be_satisfied_is_refused_with_its_reason(schema: Any, reason: str) -> None:
    with pytest.raises(UnsatisfiableSchemaError, match=reason):
        instance(schema)


def test_a_short_schema_with_a_huge_smallest_instance_is_refused() -> None:
    twice = {
        f"d{level}": {"type": "array", "minItems": 10, "items": {"$ref": f"#/$defs/d{level + 1}"}}
        for level in range(20)
    }
    with pytest.raises(UnsatisfiableSchemaError, match="more than"):
        instance({"$ref": "#/$defs/d0", "$defs": twice | {"d20": {"type": "null"}}})


def test_a_chain_of_references_that_is_too_long_is_refused() -> None:
    chain = {f"d{level}": {"$ref": f"#/$defs/d{level + 1}"} for level in range(5_000)}
    with pytest.raises(UnsatisfiableSchemaError, match="nested"):
        instance({"$ref": "#/$defs/d0", "$defs": chain})


@given(low=st.integers(-1_000, 1_000), span=st.integers(0, 50), step=st.integers(1, 20))
def test_an_integer_fits_its_bounds_whenever_one_exists(low: int, span: int, step: int) -> None:
    fitting = [number for number in range(low, low + span + 1) if number % step == 0]
    assume(fitting)
    found = instance({"type": "integer", "minimum": low, "maximum": low + span, "multipleOf": step})
    assert found in fitting
