"""The gateway's own errors."""

from __future__ import annotations

from common.errors import Unavailable


class StoreUnavailableError(Unavailable):
    """The state store did not answer in its time, or with nonsense; `reason` is for the log."""

    code = "key_store_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("API keys cannot be read or changed right now.")
        self.reason = reason
