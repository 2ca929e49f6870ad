"""The cache service's own errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from common.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


class StoreUnavailable(Unavailable):
    code = "cache_store_unavailable"

    def __init__(self) -> None:
        super().__init__("The cache's store does not answer.")


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Whatever is wrong with the store is one error: `StoreUnavailable`."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable from error
