"""Waits for changes of jobs: one look at the store for all that somebody follows, whatever their number."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from jobs.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jobs.store import JobStore


class _Followed:
    def __init__(self) -> None:
        self.followers = 0
        self.version = 0
        self.changed = asyncio.Event()


class Watch:
    """Polling instead of subscriptions: nothing to re-establish after the store came back, and a bounded cost."""

    def __init__(self, store: JobStore, *, interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._followed: dict[str, _Followed] = {}
        self._somebody = asyncio.Event()

    async def run(self) -> None:
        """Never returns. A store that is away changes nothing: its jobs are looked at again next time."""
        while True:
            await self._somebody.wait()
            ids = list(self._followed)
            with contextlib.suppress(StoreUnavailable):
                for job_id, version in zip(ids, await self._store.versions(ids), strict=True):
                    followed = self._followed.get(job_id)
                    if followed is not None and version != followed.version:
                        followed.version = version
                        followed.changed.set()
                        followed.changed = asyncio.Event()
            await asyncio.sleep(self._interval_s)

    @contextlib.asynccontextmanager
    async def following(self, job_id: str) -> AsyncIterator[_Follower]:
        followed = self._followed.setdefault(job_id, _Followed())
        followed.followers += 1
        self._somebody.set()
        try:
            yield _Follower(followed)
        finally:
            followed.followers -= 1
            if not followed.followers:
                del self._followed[job_id]
                if not self._followed:
                    self._somebody.clear()


class _Follower:
    def __init__(self, followed: _Followed) -> None:
        self._followed = followed

    async def beyond(self, version: int, timeout_s: float) -> bool:
        """Wait until the job's version is another than `version`; False when the time is up before."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._followed.version in (0, version):
                    await self._followed.changed.wait()
        except TimeoutError:
            return False
        return True
