"""Jobs that ran out of attempts: an operator retries or purges them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from common.errors import NotFound
from jobs.errors import IdempotencyMismatch, QueueFull, TenantFull
from jobs.transitions import NewJob

if TYPE_CHECKING:
    from jobs.sealing import Sealer
    from jobs.settings import Settings
    from jobs.store import JobStore
    from jobs.transitions import AcceptOutcome, Bounds, Transitions


class NoSuchDeadLetter(NotFound):
    code = "dead_letter_not_found"

    def __init__(self) -> None:
        super().__init__("No such dead letter.", param="id")


class DeadLetters:
    def __init__(self, store: JobStore, transitions: Transitions, sealer: Sealer, settings: Settings) -> None:
        self._store = store
        self._transitions = transitions
        self._sealer = sealer
        self._settings = settings

    async def retry(self, job_id: str, bounds: Bounds) -> str:
        """Run its request again, as a new job, because a final state never changes; returns the new job's id.

        Asked twice it is one new job. Raises `NoSuchDeadLetter`, `TenantFull`, `QueueFull`.
        """
        record = await self._store.get(job_id)
        if record.request is None:
            raise NoSuchDeadLetter

        new_id = f"job_{uuid4().hex}"

        def moved(value: bytes | None, field: str) -> bytes:
            if value is None:
                return b""
            opened = self._sealer.open(value, tenant=record.tenant, job_id=job_id, field=field)
            return self._sealer.seal(opened, tenant=record.tenant, job_id=new_id, field=field)

        job = NewJob(
            id=new_id,
            tenant=record.tenant,
            request=moved(record.request, "request"),
            deadline_ms=record.deadline - record.created_at,
            keep_ms=self._settings.keep_s * 1000,
            digest="retry",
            idempotency=self._sealer.digest(b"retry:" + job_id.encode()),
            fields={
                "key_id": record.key_id,
                "endpoint": record.endpoint,
                "max_attempts": self._settings.max_attempts,
                "request_id": record.request_id,
                "traceparent": record.traceparent,
                "is_stream": "1" if record.is_stream else "",
                "metadata": moved(record.metadata, "metadata"),
                "retry_of": job_id,
            },
        )
        outcome, accepted = await self._transitions.accept(job, bounds)
        refuse_unless_accepted(outcome, bounds)
        return accepted

    async def purge(self, job_id: str) -> None:
        """Raises `NoSuchDeadLetter`."""
        if not await self._transitions.purge(job_id):
            raise NoSuchDeadLetter


def refuse_unless_accepted(outcome: AcceptOutcome, bounds: Bounds) -> None:
    """Raises what the caller is told when a job was not accepted."""
    if outcome == "mismatch":
        raise IdempotencyMismatch
    if outcome == "tenant_full":
        raise TenantFull(bounds.open_per_tenant)
    if outcome == "full":
        raise QueueFull
