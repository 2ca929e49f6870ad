"""Reads jobs from the *state* store. What changes them are the transitions, alone."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError

from common.telemetry.spans import UNTRACED, StoreSpans
from jobs.errors import JobGone, NoSuchJob, StoreUnavailable
from jobs.record import Record
from jobs.transitions import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

_SCANNED_PER_PAGE = 1_000
"""Records that one page looks through for a state; a page may come back short, with where to go on."""


_TENANTS_LOOKED_AT = 1_000
"""For the oldest job; tenants that wait take turns, so those behind them are not much older."""


@dataclass(frozen=True, slots=True)
class QueueState:
    lengths: Mapping[str, int]
    """Open jobs by state: `queued`, `running`, `delayed`."""
    oldest_age_s: float
    """How long the job that waits longest has been ready to run; 0 when none waits."""
    dead_letters: int


class JobStore:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis, *, max_bytes: int, prefix: str = PREFIX, spans: StoreSpans = UNTRACED) -> None:
        self._redis: Any = redis  # redis types its commands as either client's
        self._prefix = prefix
        self._spans = spans
        self._configured_bytes = max_bytes
        self._max_bytes = max_bytes

    def max_bytes(self) -> int:
        """What all records together may take: half of the store's memory, or less if so configured."""
        return self._max_bytes

    async def learn_memory(self) -> None:
        with _store_errors(), self._spans.in_background("learn_memory"):
            maxmemory = int((await self._redis.info("memory")).get("maxmemory", 0))
        self._max_bytes = min(self._configured_bytes, maxmemory // 2) if maxmemory else self._configured_bytes

    async def get(self, job_id: str, tenant: str | None = None) -> Record:
        """Raises `NoSuchJob`, also for another tenant's, and `JobGone`. No tenant: an operator asks."""
        with _store_errors(), self._spans.operation("get"):
            found, gone_from = await self._both(job_id)
        record = _parsed(job_id, found)
        if record is None:
            if gone_from is not None and tenant in (None, gone_from):
                raise JobGone
            raise NoSuchJob
        if tenant not in (None, record.tenant):
            raise NoSuchJob
        return record

    async def _both(self, job_id: str) -> tuple[dict[bytes, bytes], str | None]:
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(f"{self._prefix}:job:{job_id}")
        pipe.get(f"{self._prefix}:gone:{job_id}")
        found, gone = await pipe.execute()
        return found, None if gone is None else gone.decode()

    async def page(
        self, index: str, *, states: frozenset[str] | None, limit: int, after: str | None
    ) -> tuple[list[Record], str | None]:
        """Return records of `of:<tenant>`, `all` or `dead`, newest first, and the id after which there may be more."""
        name = f"{self._prefix}:{index}"
        with _store_errors(), self._spans.in_background("page"):
            start = 0
            if after is not None:
                rank = await self._redis.zrevrank(name, after)
                if rank is None:
                    return [], None
                start = rank + 1
            ids = [found.decode() for found in await self._redis.zrevrange(name, start, start + _SCANNED_PER_PAGE)]
            return await self._fill(ids, states, limit)

    async def _fill(
        self, ids: Sequence[str], states: frozenset[str] | None, limit: int
    ) -> tuple[list[Record], str | None]:
        """Read records until the page is full."""
        found: list[Record] = []
        for first in range(0, min(len(ids), _SCANNED_PER_PAGE), 100):
            some = ids[first : first + 100]
            pipe = self._redis.pipeline(transaction=False)
            for job_id in some:
                pipe.hgetall(f"{self._prefix}:job:{job_id}")
            for job_id, fields in zip(some, await pipe.execute(), strict=True):
                record = _parsed(job_id, fields)
                if record is None or (states is not None and record.state not in states):
                    continue
                if len(found) == limit:
                    return found, found[-1].id
                found.append(record)
        return found, ids[_SCANNED_PER_PAGE - 1] if len(ids) > _SCANNED_PER_PAGE else None

    async def events(self, job_id: str, start: int, count: int = 500) -> list[bytes]:
        """The events from number `start` on, as the scripts wrote them."""
        with _store_errors(), self._spans.in_background("events"):
            found = await self._redis.lrange(f"{self._prefix}:events:{job_id}", start, start + count - 1)
        return cast("list[bytes]", found)

    async def versions(self, job_ids: Sequence[str]) -> list[int]:
        """How many events each job has: a number that grows with every change of it. 0: no such job any more."""
        with _store_errors(), self._spans.in_background("versions"):
            pipe = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipe.llen(f"{self._prefix}:events:{job_id}")
            return [int(length) for length in await pipe.execute()]

    async def stops(self) -> set[tuple[str, int]]:
        """Runs that ended without their worker: id and fence."""
        with _store_errors(), self._spans.in_background("stops"):
            found = await self._redis.zrange(f"{self._prefix}:stops", 0, -1)
        runs = (member.decode().rpartition(":") for member in found)
        return {(job_id, int(fence)) for job_id, _, fence in runs}

    async def figures(self) -> QueueState:
        counts = await self.counts()
        lengths = {state: counts[state] for state in ("queued", "running", "delayed")}
        return QueueState(lengths, await self.oldest_age_s(), counts["dead"])

    async def oldest_age_s(self) -> float:
        """How long the job that is next of its tenant and waits longest has been ready to run; 0 when none waits."""
        with _store_errors(), self._spans.in_background("oldest_age"):
            tenants = await self._redis.lrange(f"{self._prefix}:ring", 0, _TENANTS_LOOKED_AT - 1)
            pipe = self._redis.pipeline(transaction=False)
            pipe.time()
            for tenant in tenants:
                pipe.lindex(f"{self._prefix}:ready:{tenant.decode()}", 0)
            (seconds, microseconds), *next_ids = await pipe.execute()
            pipe = self._redis.pipeline(transaction=False)
            for job_id in filter(None, next_ids):
                pipe.hget(f"{self._prefix}:job:{job_id.decode()}", "ready_at")
            ready_at = [int(since) for since in await pipe.execute() if since]
        now_s = seconds + microseconds / 1_000_000
        return max(0.0, now_s - min(ready_at) / 1000) if ready_at else 0.0

    async def counts(self) -> dict[str, int]:
        """What an operator looks at first."""
        with _store_errors(), self._spans.in_background("counts"):
            pipe = self._redis.pipeline(transaction=False)
            for name in ("deadlines", "leases", "delayed", "dead", "all"):
                pipe.zcard(f"{self._prefix}:{name}")
            pipe.get(f"{self._prefix}:bytes")
            opened, running, delayed, dead, kept, used = await pipe.execute()
        return {
            "queued": opened - running - delayed,
            "running": running,
            "delayed": delayed,
            "final": kept - opened,
            "dead": dead,
            "bytes": int(used or 0),
            "max_bytes": self._max_bytes,
        }


def _parsed(job_id: str, fields: dict[bytes, bytes]) -> Record | None:
    try:
        return Record.from_hash(job_id, fields) if fields else None
    except (KeyError, ValueError):  # one damaged record is no job; the others are none the worse
        logger.warning("job_record_damaged", extra={"job_id": job_id})
        return None


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(type(error).__name__) from error
