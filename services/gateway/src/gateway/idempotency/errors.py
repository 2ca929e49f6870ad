"""What an `Idempotency-Key` can go wrong with."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from common import wire
from common.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "Idempotency-Key"


class BadIdempotencyKey(InvalidRequest):
    """It is not 1 to 255 visible ASCII characters."""

    code = "invalid_idempotency_key"


class IdempotencyKeyReused(InvalidRequest):
    """The same key came with another body."""

    status = 422
    code = "idempotency_key_reused"


class AnswerNotKept(InvalidRequest):
    """The request was answered, and its answer was too large to be kept: to run it again would be a second run."""

    status = 409
    code = "idempotency_answer_not_kept"
    default_headers: ClassVar[Mapping[str, str]] = wire.FINAL


class RecordLostError(Exception):
    """The lease ran out, and somebody else took the record. No caller sees it."""
