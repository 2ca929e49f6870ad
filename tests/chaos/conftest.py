from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cache_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey("cache", tmp_path_factory.mktemp("cache")) as server:
        yield server
