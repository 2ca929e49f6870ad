from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

from e2e.up_process import UpProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """The whole stack, started once. A test that stops or breaks it for good starts its own `UpProcess`."""
    # A busy machine's cache answers later than 50 ms, and then its hits were misses.
    with UpProcess(tmp_path_factory.mktemp("stack") / "local", GATEWAY_CACHE_TIMEOUT_S="0.5") as up:
        yield up


@pytest.fixture
def client(stack: UpProcess) -> Iterator[OpenAI]:
    """The official SDK with what dev.env says, and no retries that would hide a failure."""
    known = stack.client
    with OpenAI(base_url=known["OPENAI_BASE_URL"], api_key=known["OPENAI_API_KEY"], max_retries=0) as client:
        yield client
