"""The committed OpenAPI documents are the contracts: a change of one is a change that a reviewer sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack import openapi

SNAPSHOTS = Path(__file__).parents[2] / "docs" / "openapi"


@pytest.mark.parametrize("service", openapi.SERVICES)
def test_the_committed_document_is_what_the_service_says(service: str) -> None:
    assert openapi.render(service) == (SNAPSHOTS / f"{service}.json").read_bytes(), "run: ./justw openapi"


def test_no_document_is_of_a_service_that_is_gone() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} == set(openapi.SERVICES)
