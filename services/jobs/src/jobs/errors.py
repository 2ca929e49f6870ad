"""The jobs service's own errors."""

from __future__ import annotations

from common.errors import InvalidRequest, NotFound, PayloadTooLarge, RateLimited, Unavailable


class StoreUnavailable(Unavailable):
    """The state store did not answer in its time, or refused to write; what was asked may have happened or not."""

    code = "job_store_unavailable"

    def __init__(self, reason: str = "") -> None:
        super().__init__("Jobs cannot be read or changed right now.")
        self.reason = reason
        """For the log: the class of what the client raised."""


class NoSuchJob(NotFound):
    """The same bytes for a job that never was and for another tenant's."""

    code = "job_not_found"

    def __init__(self) -> None:
        super().__init__("No such job.", param="job_id")


class JobGone(InvalidRequest):
    status = 410
    code = "job_gone"

    def __init__(self) -> None:
        super().__init__("The job's result is not kept any longer.", param="job_id")


class IdempotencyMismatch(InvalidRequest):
    status = 422
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with another request before.", param="Idempotency-Key")


class RequestTooLarge(PayloadTooLarge):
    """The connection goes on: the body has been read."""

    default_headers = {}  # noqa: RUF012  # a ClassVar of the base

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"A job's request may not be larger than {max_bytes} bytes.", param="body")


class TenantFull(RateLimited):
    code = "too_many_open_jobs"

    def __init__(self, max_open: int) -> None:
        super().__init__(f"The tenant has {max_open} open jobs already.", headers={"retry-after": "10"})


class QueueFull(Unavailable):
    code = "job_queue_full"

    def __init__(self) -> None:
        super().__init__("No more jobs can be accepted right now.", headers={"retry-after": "30"})
