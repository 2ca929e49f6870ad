"""One attempt at one job: its request is opened, replayed, and the record is told what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from jobs.errors import StoreUnavailable
from jobs.events import CHUNK_FIELD
from jobs.replay import TOO_LARGE, AttemptFailed, Delayed, Failed, Outcome, Succeeded, attempt_failed, failed
from jobs.sealing import SealBrokenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobs.record import Claim
    from jobs.replay import Replayer
    from jobs.sealing import Sealer
    from jobs.settings import WorkerSettings
    from jobs.tracing import Tracing
    from jobs.transitions import Transitions

logger = logging.getLogger(__name__)
T = TypeVar("T")

STORE_PAUSE_S = 0.2
_LEAST_USEFUL_S = 0.25
_FULL = failed("There was no room to keep the result.", "storage_full")
_UNREADABLE = failed("The request cannot be read any more.", "job_unreadable")


OUTCOMES = {Succeeded: "succeeded", Failed: "failed", Delayed: "delayed", AttemptFailed: "attempt_failed"}
STOPPED = "stopped"
"""The run was not the worker's any more: the job was cancelled, expired, or taken for lost."""


class LostError(Exception):
    """The run is not ours any more: whatever it does from now on counts for nothing."""


class _OverBoundError(Exception):
    def __init__(self, outcome: Failed) -> None:
        super().__init__()
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Execution:
    replayer: Replayer
    transitions: Transitions
    sealer: Sealer
    tracing: Tracing
    settings: WorkerSettings
    spread: Callable[[float, float], float] = random.uniform

    async def run(self, claim: Claim) -> str:
        """Run one attempt, record its outcome and return the word for it: one of `OUTCOMES`, or `stopped`.

        Raises `LostError`; waits for a store that is away.
        """
        with self.tracing.attempt(claim) as span:
            outcome = await self._attempt(claim)
            span.note(outcome)
            state = await self._record(claim, outcome)
        fields = {
            "job_id": claim.id,
            "attempt": claim.record.attempts,
            "outcome": type(outcome).__name__,
            "state": state,
        }
        logger.info(
            "job_attempt", extra=fields | {"tenant": claim.record.tenant, "code": getattr(outcome, "code", None)}
        )
        return STOPPED if state == "fenced" else OUTCOMES[type(outcome)]

    async def _attempt(self, claim: Claim) -> Outcome:
        try:
            body = self._opened(claim)
        except SealBrokenError:
            return _UNREADABLE
        timeout_s = min(claim.remaining_s, self.settings.attempt_timeout_s)
        if timeout_s < _LEAST_USEFUL_S:
            await asyncio.sleep(max(0, claim.remaining_s))  # the deadline, which the reaper sees to
            return Delayed(1, "deadline_exceeded")
        sink = _Chunks(self, claim)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.replayer.send(claim, body, timeout_s=timeout_s, sink=sink.add)
        except _OverBoundError as over:
            return over.outcome
        except TimeoutError:
            return attempt_failed("The attempt took too long.", "attempt_timeout")

    def _opened(self, claim: Claim) -> bytes:
        record = claim.record
        if record.request is None:
            raise SealBrokenError
        return self.sealer.open(record.request, tenant=record.tenant, job_id=record.id, field="request")

    async def _record(self, claim: Claim, outcome: Outcome) -> str:
        transitions = self.transitions
        if isinstance(outcome, Succeeded):
            result = self.sealed(claim, outcome.body, "result") if outcome.body else b""
            return await insisting(lambda: transitions.finish(claim, "succeeded", status=outcome.status, result=result))
        if isinstance(outcome, Failed):
            error = self.sealed(claim, outcome.error, "error")
            return await insisting(
                lambda: transitions.finish(claim, "failed", status=outcome.status, error=error, code=outcome.code)
            )
        delay_ms = round(1000 * self._delay_s(claim, outcome))
        if isinstance(outcome, Delayed):
            return await insisting(
                lambda: transitions.release(claim, delay_ms=delay_ms, give_back=True, code=outcome.code)
            )
        failure = self.sealed(claim, outcome.error, "error")
        return await insisting(
            lambda: transitions.release(claim, delay_ms=delay_ms, give_back=False, error=failure, code=outcome.code)
        )

    def _delay_s(self, claim: Claim, outcome: Delayed | AttemptFailed) -> float:
        """Full jitter, doubled each time. Source: AWS Architecture Blog, Exponential Backoff and Jitter."""
        settings = self.settings
        asked_s, rounds = 0.0, claim.record.attempts
        if isinstance(outcome, Delayed):
            asked_s = min(outcome.retry_after_s or 0, settings.max_retry_after_s)
            rounds = claim.record.delays + 1
        jitter_s = self.spread(0, min(settings.retry_cap_s, settings.retry_base_s * 2 ** min(rounds - 1, 20)))
        return max(0.001, asked_s + jitter_s)

    def sealed(self, claim: Claim, value: bytes, field: str) -> bytes:
        return self.sealer.seal(value, tenant=claim.record.tenant, job_id=claim.id, field=field)


class _Chunks:
    """Appends the chunks of one attempt to the job's events, each of them once."""

    def __init__(self, execution: Execution, claim: Claim) -> None:
        self._execution = execution
        self._claim = claim
        self._count = 0

    async def add(self, chunks: list[bytes]) -> None:
        """Raises `LostError`, and `_OverBoundError` when they are too many to be kept."""
        execution, claim = self._execution, self._claim
        sealed = [execution.sealed(claim, chunk, CHUNK_FIELD) for chunk in chunks]
        reply = await insisting(
            lambda: execution.transitions.append(
                claim, sealed, before=self._count, max_bytes=execution.settings.max_result_bytes
            )
        )
        if reply == "lost":
            raise LostError
        if reply != "ok":
            raise _OverBoundError(TOO_LARGE if reply == "too_large" else _FULL)
        self._count += len(chunks)


async def insisting(say: Callable[[], Awaitable[T]]) -> T:
    """Say it until the store answers. Every transition may be said twice; whoever waits too long is cancelled."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await say()
        await asyncio.sleep(STORE_PAUSE_S)
