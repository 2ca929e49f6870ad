"""The scripts of the jobs service over a real store, with a clock that a test moves and keys of its own."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.asyncio import Redis

from jobs.record import Record
from jobs.transitions import Bounds, NewJob, Transitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.record import Claim
    from jobs.transitions import AcceptOutcome

NOW = 1_700_000_000_000
HOUR = 3_600_000
LEASE = 15_000
DAY = 24 * HOUR
MAX_BYTES = 10**9
_NUMBERS = itertools.count()


class JobQueue:
    """`now` stands still until a test changes it, milliseconds."""

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int = MAX_BYTES,
        note_end: Callable[[str, float], None] = lambda _state, _seconds: None,
    ) -> None:
        self.now = NOW
        self.max_bytes = max_bytes
        self.bounds = Bounds(open_per_tenant=1_000, open_in_all=10_000)
        self.redis: Any = Redis.from_url(url)
        self.prefix = f"v1:{{jobs-{os.getpid()}-{next(_NUMBERS)}}}"
        self.transitions = Transitions(
            self.redis,
            max_bytes=lambda: self.max_bytes,
            prefix=self.prefix,
            clock=lambda: self.now,
            note_end=note_end,
        )

    async def accept(self, job_id: str, tenant: str = "alice", **fields: Any) -> tuple[AcceptOutcome, str]:
        job = NewJob(
            id=job_id,
            tenant=tenant,
            request=fields.pop("request", b"sealed request"),
            deadline_ms=fields.pop("deadline_ms", HOUR),
            keep_ms=fields.pop("keep_ms", DAY),
            digest=fields.pop("digest", "d"),
            idempotency=fields.pop("idempotency", ""),
            fields={"key_id": "k", "endpoint": "/generate", "max_attempts": 3, **fields},
        )
        return await self.transitions.accept(job, self.bounds)

    async def accepted(self, *job_ids: str, tenant: str = "alice", **fields: Any) -> None:
        for job_id in job_ids:
            assert await self.accept(job_id, tenant, **fields) == ("ok", job_id)

    async def claim(self) -> Claim:
        claim = await self.next()
        assert claim is not None
        return claim

    async def next(self) -> Claim | None:
        return await self.transitions.claim(LEASE, uuid4().hex)

    async def record(self, job_id: str) -> Record:
        return Record.from_hash(job_id, await self.redis.hgetall(f"{self.prefix}:job:{job_id}"))

    async def state(self, job_id: str) -> str | None:
        value = await self.redis.hget(f"{self.prefix}:job:{job_id}", "state")
        return None if value is None else value.decode()

    async def close(self) -> None:
        await self.redis.aclose()
