from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.platform import Platform, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2
    from openai import OpenAI


@pytest.fixture(scope="session")
def state_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The *state* store, shared: a test that breaks a store starts its own."""
    with valkey("state", tmp_path_factory.mktemp("state")) as server:
        yield server


@pytest.fixture(scope="session")
def cache_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The *cache* store, shared as above."""
    with valkey("cache", tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="session")
def stack(state_store: Valkey, cache_store: Valkey) -> Iterator[Platform]:
    """The platform, started once and never broken."""
    with platform(state_store.url, cache_store.url) as started:
        yield started


@pytest.fixture(scope="session")
def http(stack: Platform) -> Iterator[httpx2.Client]:
    with stack.http() as client:
        yield client


@pytest.fixture(scope="session")
def sdk(stack: Platform) -> Iterator[OpenAI]:
    with stack.sdk() as client:
        yield client


@pytest.fixture
def prompt(request: pytest.FixtureRequest) -> str:
    """A prompt that no other test sends, so that no cached answer and no counted attempt is another's."""
    return f"Tell me of {request.node.nodeid}."
