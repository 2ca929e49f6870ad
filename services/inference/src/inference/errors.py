"""How one attempt at an upstream can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.errors import ServiceError


@dataclass(eq=False)  # neither frozen nor with slots: contextlib writes an exception's traceback
class AttemptFailedError(Exception):
    """One upstream call failed before a byte of its answer went to the caller."""

    error: ServiceError
    """What the caller gets if this was the last attempt."""
    reason: str
    """A word for spans and logs: `status_503`, `connect`, `broken`, `timeout`, `malformed`."""
    is_retryable: bool = False
    retry_after_s: float | None = None
    """What the upstream asked for."""
    rides_along: bool = False
    """The call was joined with others', and its failure is another's to report."""

    def __str__(self) -> str:
        return self.reason


def error_type(error: ServiceError) -> str:
    """A word of ours for what failed, for spans and metrics: an error's own code may be its upstream's words."""
    cause = error.__cause__
    return cause.reason if isinstance(cause, AttemptFailedError) else error.own_code or error.type
