"""Runs jobs: claims one whenever a slot is free, keeps the leases of those that run, stops those that are not its own
any more, and gives all of them back when it has to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from common.background import end
from jobs.errors import StoreUnavailable
from jobs.execution import OUTCOMES, STOPPED, STORE_PAUSE_S, LostError, insisting
from jobs.settings import HEARTBEATS_MISSED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from jobs.hints import Hints
    from jobs.record import Claim
    from jobs.settings import WorkerSettings
    from jobs.store import JobStore
    from jobs.transitions import Transitions

logger = logging.getLogger(__name__)

TICK_S = 0.5
"""How soon a cancelled job hears of it."""
STOP_S = 3
"""What the store gets to take the jobs back when the worker ends; without it their leases run out."""


@dataclass(slots=True, eq=False)
class _Run:
    claim: Claim
    task: asyncio.Task[None]
    renewed_at: float
    is_lost: bool = False

    def lose(self) -> None:
        self.is_lost = True
        self.task.cancel()


class Runner:
    def __init__(  # noqa: PLR0913  # four parts, what to do, and a clock
        self,
        transitions: Transitions,
        store: JobStore,
        hints: Hints,
        execute: Callable[[Claim], Awaitable[str]],
        settings: WorkerSettings,
        *,
        note_wait: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`note_wait` is told of each job that is claimed how many seconds it had been ready to run."""
        self.attempts = Counter(dict.fromkeys((*OUTCOMES.values(), STOPPED, "given_back", "internal_error"), 0))
        """Runs that are over: what `execute` says, `stopped`, `given_back` when the worker ends, `internal_error`."""
        self._note_wait = note_wait
        self._transitions = transitions
        self._store = store
        self._hints = hints
        self._execute = execute
        self._lease_s = settings.lease_s
        self._heartbeat_s = settings.heartbeat_s
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._clock = clock
        self._runs: set[_Run] = set()
        self._is_away = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run jobs beside the body; when it ends, stop claiming and give back what runs, without using an attempt."""
        tasks = [asyncio.create_task(self._claim_forever()), asyncio.create_task(self._keep_forever())]
        try:
            yield
        finally:
            await end(*tasks)
            await self._give_back()

    async def _claim_forever(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                claim, asked_at = await self._next()
            except BaseException:
                self._slots.release()
                raise
            self._note_wait(claim.waited_s)
            task = asyncio.create_task(self._run(claim))
            run = _Run(claim, task, renewed_at=asked_at)
            self._runs.add(run)
            task.add_done_callback(functools.partial(self._ended, run))

    def _ended(self, run: _Run, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.attempts[STOPPED if run.is_lost else "given_back"] += 1
        self._runs.discard(run)
        self._slots.release()

    async def _next(self) -> tuple[Claim, float]:
        name = uuid4().hex  # kept until a job came: a reply that is lost must not leave one to nobody
        while True:
            asked_at = self._clock()
            try:
                if (claim := await self._transitions.claim(round(self._lease_s * 1000), name)) is not None:
                    return claim, asked_at
                await self._hints.wait()
                self._is_away = False
            except StoreUnavailable as error:
                self._note_away(error)
                await asyncio.sleep(STORE_PAUSE_S)

    async def _run(self, claim: Claim) -> None:
        try:
            self.attempts[await self._execute(claim)] += 1
        except LostError:
            self.attempts[STOPPED] += 1
            logger.warning("job_lost", extra={"job_id": claim.id})
        except Exception:  # a background task: a job that nobody foresaw must not end the worker
            self.attempts["internal_error"] += 1
            logger.exception("job_failed_unexpectedly", extra={"job_id": claim.id})
            await insisting(lambda: self._fail(claim))

    async def _fail(self, claim: Claim) -> str:
        return await self._transitions.release(claim, delay_ms=1000, give_back=False, error=_BUG, code="internal_error")

    async def _keep_forever(self) -> None:
        while True:
            await asyncio.sleep(min(TICK_S, self._heartbeat_s))
            try:
                await self._keep()
            except StoreUnavailable as error:
                self._note_away(error)
            except Exception:  # a background loop: leases must be kept, whatever happened in one round
                logger.exception("keeping_leases_failed")
            for run in self._runs:
                if not run.is_lost and self._clock() - run.renewed_at > HEARTBEATS_MISSED * self._lease_s:
                    logger.warning("job_lease_not_kept", extra={"job_id": run.claim.id})
                    run.lose()

    async def _keep(self) -> None:
        """Renew leases that are due, and stop runs that have ended elsewhere. Raises `StoreUnavailable`."""
        if not self._runs:
            return
        now = self._clock()
        due = [run for run in self._runs if not run.is_lost and now - run.renewed_at >= self._heartbeat_s]
        if due:
            lease_ms = round(self._lease_s * 1000)
            beats = await self._transitions.heartbeat(lease_ms, [run.claim for run in due])
            for run, beat in zip(due, beats, strict=True):
                if beat == "ok":
                    run.renewed_at = now
                else:
                    run.lose()
        stops = await self._store.stops()
        for run in self._runs:
            if not run.is_lost and (run.claim.id, run.claim.fence) in stops:
                run.lose()

    async def _give_back(self) -> None:
        runs = list(self._runs)
        await end(*(run.task for run in runs))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                for run in runs:
                    release = functools.partial(self._transitions.release, run.claim, give_back=True)
                    await insisting(release)
        if runs:
            logger.info("jobs_given_back", extra={"count": len(runs)})

    def _note_away(self, error: StoreUnavailable) -> None:
        if not self._is_away:
            logger.warning("job_store_unavailable", extra={"reason": error.reason})
        self._is_away = True


_BUG = b'{"message":"An internal error occurred.","type":"server_error","param":null,"code":"internal_error"}'
