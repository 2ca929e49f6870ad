"""This release beside the last one: what was written for that one goes on working. Its contracts lie in
docs/openapi/released.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from devstack.openapi import SERVICES, words
from support.openapi_changes import breaks

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi"


def released(service: str) -> dict[str, Any]:
    contract: dict[str, Any] = json.loads((OPENAPI / "released" / f"{service}.json").read_text())
    return contract


@pytest.mark.parametrize("service", SERVICES)
def test_whoever_was_written_for_the_last_release_can_talk_to_this_one(service: str) -> None:
    assert breaks(released(service), json.loads((OPENAPI / f"{service}.json").read_text())) == []


def document(*, body: Any = None, answer: Any = None, **operation: Any) -> dict[str, Any]:
    """One operation."""
    sent = {"content": {"application/json": {"schema": body or {}}}}
    got = {"200": {"content": {"application/json": {"schema": answer or {}}}}}
    return {"paths": {"/x": {"post": {"requestBody": sent, "responses": got} | operation}}}


OBJECT = {
    "type": "object",
    "properties": {"model": {"type": "string", "maxLength": 9}, "n": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
    "required": ["model"],
}


def changed(*path: str, to: Any = None, schema: dict[str, Any] = OBJECT) -> dict[str, Any]:
    """`schema` with another value there; None takes it away."""
    changed = copy.deepcopy(schema)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    if to is None:
        del place[path[-1]]
    return changed


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (changed("properties", "n"), "body.n is gone"),
        (changed("required", to=["model", "n"]), "body.n (absent) is not taken any more"),
        (changed("properties", "model", "maxLength", to=8), "body.model (maxLength) is not taken any more"),
        (changed("properties", "model", "pattern", to="^a"), "body.model (pattern) is not taken any more"),
        (changed("properties", "model", "enum", to=["a"]), "body.model (any value) is not taken any more"),
        (changed("properties", "model", "type", to="integer"), "body.model (type string) is not taken any more"),
        (changed("properties", "n", to={"type": "number"}), "body.n (type null) is not taken any more"),
        (changed("properties", "n", to={"type": "integer"}), "body.n (type number) is not taken any more"),
        (changed("additionalProperties", to=False), "body (further fields) is not taken any more"),
    ],
)
def test_a_request_that_may_hold_less_is_seen(new: dict[str, Any], why: str) -> None:
    assert f"POST /x: {why}" in breaks(document(body=OBJECT), document(body=new))


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (changed("properties", "n"), "answer 200.n is gone"),
        (changed("required", to=[]), "answer 200.model (absent) may be what it was not"),
        (changed("properties", "model", "maxLength", to=10), "answer 200.model (maxLength) may be what it was not"),
        (
            changed("properties", "model", to={"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}),
            "answer 200.model (type null) may be what it was not",
        ),
    ],
)
def test_an_answer_that_may_hold_what_it_could_not_is_seen(new: dict[str, Any], why: str) -> None:
    assert breaks(document(answer=OBJECT), document(answer=new)) == [f"POST /x: {why}"]


def test_a_path_a_method_a_parameter_and_a_status_that_went_are_seen() -> None:
    parameter = {"in": "query", "name": "wait", "schema": {"type": "number"}}
    old = document(parameters=[parameter])
    assert breaks(old, {"paths": {}}) == ["POST /x is gone"]
    assert breaks(old, {"paths": {"/x": {"get": old["paths"]["/x"]["post"]}}}) == ["POST /x is gone"]
    assert breaks(old, document()) == ["POST /x: parameter wait is gone"]
    needed = document(parameters=[parameter | {"required": True}])
    assert breaks(old, needed) == breaks(document(), needed) == ["POST /x: parameter wait is required now"]
    assert breaks(old, document(parameters=[parameter], responses={"201": {}})) == ["POST /x: answers no 200 any more"]


@pytest.mark.parametrize(
    "new",
    [
        document(body=changed("properties", "seed", to={"type": "integer"}), answer=OBJECT),
        document(body=changed("properties", "model", "maxLength", to=10), answer=OBJECT),
        document(body=changed("required", to=[]), answer=OBJECT),
        document(body=OBJECT, answer=changed("properties", "seed", to={"type": "integer"})),
        document(body=OBJECT, answer=changed("required", to=["model", "n"])),
        document(body=OBJECT, answer=OBJECT, parameters=[{"in": "query", "name": "wait"}]),
    ],
)
def test_what_takes_more_and_answers_with_more_breaks_nobody(new: dict[str, Any]) -> None:
    assert breaks(document(body=OBJECT, answer=OBJECT), new) == []


def test_an_answer_that_was_closed_may_have_a_new_field() -> None:
    closed = OBJECT | {"additionalProperties": False}
    more = changed("properties", "seed", to={"type": "integer"}, schema=closed)
    assert breaks(document(answer=closed), document(answer=more)) == []
    assert breaks(document(answer=more), document(answer=closed)) == ["POST /x: answer 200.seed is gone"]


def test_a_keyword_that_is_not_understood_is_not_waved_through() -> None:
    with pytest.raises(NotImplementedError):
        breaks(document(body=OBJECT), document(body=OBJECT | {"oneOf": []}))


def test_the_committed_words_between_services_are_those_of_the_code() -> None:
    assert json.loads((OPENAPI / "wire.json").read_text()) == words(), "the contract changed: `just openapi`"


@pytest.mark.parametrize("kind", ["names", "outcomes", "shapes"])
def test_services_of_the_last_release_and_of_this_one_speak_the_same_words(kind: str) -> None:
    before, now = released("wire")[kind], words()[kind]
    assert before
    assert {word: now.get(word) for word in before} == before
