"""A job as its owner sees it, and as an operator sees it: the latter without anything that the tenant sent or got."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import orjson

from jobs.errors import JobGone
from jobs.events import EventLog
from jobs.sealing import SealBrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.record import Record
    from jobs.sealing import Sealer
    from jobs.store import JobStore

_LONGEST_RETRY_AFTER_S = 30


class Showing:
    def __init__(self, store: JobStore, sealer: Sealer, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._sealer = sealer
        self._wall_clock = wall_clock

    async def whole(self, record: Record) -> bytes:
        """The job with its result or error, as JSON. Raises `JobGone` and `StoreUnavailable`."""
        if record.expires_at is not None and record.expires_at <= self._wall_clock() * 1000:
            raise JobGone  # a dead letter is kept longer, for the operator
        job = self.summary(record)
        try:
            job["result"] = await self._result(record)
            job["error"] = self._error(record)
            if record.metadata is not None:
                job["metadata"] = orjson.Fragment(self._opened(record, record.metadata, "metadata"))
        except SealBrokenError:
            job["error"] = _UNREADABLE
        return orjson.dumps(job)

    def summary(self, record: Record) -> dict[str, Any]:
        """The job without what it holds."""
        return {
            "id": record.id,
            "object": "job",
            "state": record.state,
            "endpoint": record.endpoint,
            "attempts": record.attempts,
            "max_attempts": record.max_attempts,
            "created_at": _seconds(record.created_at),
            "started_at": _seconds(record.started_at),
            "finished_at": _seconds(record.finished_at),
            "deadline_at": _seconds(record.deadline),
            "expires_at": _seconds(record.expires_at),
            "retry_at": _seconds(record.ready_at) if record.state == "delayed" else None,
        }

    def for_operator(self, record: Record) -> dict[str, Any]:
        """The job with whose it is and why it failed; neither prompt nor answer nor an upstream's words."""
        return self.summary(record) | {
            "tenant": record.tenant,
            "key_id": record.key_id,
            "request_id": record.request_id,
            "code": record.code,
            "status": record.status,
            "retry_of": record.retry_of,
        }

    def retry_after_s(self, record: Record) -> int:
        """When it is worth asking again about an open job."""
        if record.state != "delayed":
            return 1
        remaining_s = record.ready_at / 1000 - self._wall_clock()
        return max(1, min(_LONGEST_RETRY_AFTER_S, math.ceil(remaining_s)))

    async def _result(self, record: Record) -> Any:
        if record.state != "succeeded":
            return None
        if record.result is not None:
            return orjson.Fragment(self._opened(record, record.result, "result"))
        log = EventLog(self._sealer, tenant=record.tenant, job_id=record.id)
        chunks = log.last_attempt(await self._store.events(record.id, 0, count=1_000_000))
        return {"object": "list", "data": [orjson.Fragment(chunk) for chunk in chunks]}

    def _error(self, record: Record) -> Any:
        if record.error is None:
            return None
        if record.error[:1] == b"{":  # a script's own words
            return orjson.Fragment(record.error)
        return orjson.Fragment(self._opened(record, record.error, "error"))

    def _opened(self, record: Record, sealed: bytes, field: str) -> bytes:
        return self._sealer.open(sealed, tenant=record.tenant, job_id=record.id, field=field)


_UNREADABLE = {
    "message": "What the job holds cannot be read any more.",
    "type": "server_error",
    "param": None,
    "code": "job_unreadable",
}


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
