"""The cache service's own errors."""

from __future__ import annotations

from common.errors import Unavailable


class StoreUnavailable(Unavailable):
    code = "cache_store_unavailable"

    def __init__(self) -> None:
        super().__init__("The cache's store does not answer.")
