"""The gateway's own errors."""

from __future__ import annotations

from common.errors import InvalidRequest, Unavailable


class InferenceUnreachable(Unavailable):
    """No byte of the request was sent, or the hop was refused at its door: no model has worked."""


class StoreUnavailableError(Unavailable):
    """The state store did not answer in its time, or with nonsense; `reason` is for the log."""

    code = "key_store_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("API keys cannot be read or changed right now.")
        self.reason = reason


class Conflict(InvalidRequest):
    """The request is sound and does not fit what is there."""

    status = 409
    code = "conflict"


class AlreadyDeclared(Conflict):
    code = "declared_in_file"

    def __init__(self) -> None:
        super().__init__("It is declared in the keys file, where alone it can be changed.")


class TenantHasKeys(Conflict):
    code = "tenant_has_keys"

    def __init__(self) -> None:
        super().__init__("The tenant has keys: delete them first, or disable the tenant.")
