"""Requests made up from the committed OpenAPI document, valid and not: whatever comes, the gateway keeps its contract.

Bounded by examples, not by time; the seed is printed with a failure. More of it:
`SCHEMA_EXAMPLES=500 pytest tests/integration/test_schema_fuzzing.py`; the same again: `SCHEMA_SEED=…`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.platform import ADMIN_KEY, BOUND_S, Platform, platform
from support.valkey import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "openapi" / "gateway.json").read_text(encoding="utf-8")
)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    f"{method.upper()} {path}": SCHEMA[path][method] for path, item in DOCUMENT["paths"].items() for method in item
}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "12"))
LARGEST_REFUSAL = 1024
ASKED_AGAIN = 3


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own: what is made up may delete keys and purge caches."""
    with contextlib.ExitStack() as stack:
        state, limits, cache = (
            stack.enter_context(valkey(name, tmp_path_factory.mktemp(name))) for name in ("state", "limits", "cache")
        )
        yield stack.enter_context(platform(state.url, cache.url, of_gateway={"limits_url": limits.url}))


def has_input(name: str) -> bool:
    method, path = name.split(" ")
    return bool({"parameters", "requestBody"} & DOCUMENT["paths"][path][method.lower()].keys())


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in OPERATIONS]
    + [(name, GenerationMode.NEGATIVE) for name in OPERATIONS if has_input(name)],
)
def test_whatever_is_made_up_from_the_contract_is_answered_within_it(
    fuzzed: Platform, name: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[name]
    key = ADMIN_KEY if "/admin" in name else fuzzed.key
    seed = int(os.environ.get("SCHEMA_SEED", random.getrandbits(32)))  # to be repeated, not to be secret
    print(f"SCHEMA_SEED={seed}")  # noqa: T201  # shown when the test fails

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def answered(case: schemathesis.Case[Any]) -> None:
        headers = {"authorization": f"Bearer {key}"}
        for _ in range(ASKED_AGAIN):  # a busy machine's store may miss its 200 ms; one that is away stays away
            answer = case.call(base_url=fuzzed.gateway, headers=headers, timeout=BOUND_S)
            if answer.status_code != 503:
                break
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert len(answer.content) <= LARGEST_REFUSAL
            assert answer.headers["x-request-id"][0].startswith("req_")

    answered()
