from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from devstack import openapi

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("service", openapi.SERVICES)
def test_a_services_document_is_the_same_each_time_it_is_written(service: str) -> None:
    assert openapi.render(service) == openapi.render(service)


def test_every_service_is_described_in_a_file_of_its_own(tmp_path: Path) -> None:
    openapi.write(tmp_path)

    documents = {path.stem: orjson.loads(path.read_bytes()) for path in tmp_path.iterdir()}
    assert documents.pop("wire") == openapi.words()
    assert set(documents) == {"gateway", "inference", "cache", "jobs"}
    assert all("/readyz" in document["paths"] for document in documents.values())
    assert "/v1/chat/completions" in documents["gateway"]["paths"]
