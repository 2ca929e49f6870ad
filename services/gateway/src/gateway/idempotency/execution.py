"""One request by all who sent it to this process: it runs once, here or elsewhere, and each of them gets the answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from common.background import running
from common.errors import ClientGone, UpstreamFailed
from gateway.caching.sealing import SealBrokenError
from gateway.errors import StoreUnavailableError
from gateway.idempotency.errors import AnswerNotKept, IdempotencyKeyReused, RecordLostError
from gateway.idempotency.recording import Recorded
from gateway.idempotency.run import Follower, Run

if TYPE_CHECKING:
    from gateway.idempotency.records import Claim, Records

logger = logging.getLogger(__name__)

FIRST_POLL_S = 0.05
LAST_POLL_S = 1.0
WAITED_LATELY_S = 3.0
"""Who asked within this time is taken to wait still: thrice the longest pause between two polls."""
ALONE_RENEWAL_S = 1.0
RUNS = 2
"""Of one request in one process: a second one for those who are left when the first came to nothing."""
_TIMED_OUT = 504


@dataclass(frozen=True, slots=True)
class Outcome:
    recorded: Recorded
    maker: Follower | None
    """For whom it was made; the others get replays."""


class Execution:
    """Runs as a task of its own: it outlives the request that began it for as long as anybody waits, here or elsewhere.

    With the state store away it runs all the same, shared within this process alone, and `is_recorded` turns False.
    """

    def __init__(self, name: str, body: str, *, tenant: str, records: Records) -> None:
        self.name = name
        self.body = body
        self.is_recorded = True
        self.is_ending = False
        """Nobody waited, so it is being cancelled: who comes now waits for its end and begins anew."""
        self._tenant = tenant
        self._records = records
        self._owner = uuid4().hex
        self._owns = False
        self._followers: list[Follower] = []
        self._alone = asyncio.Event()

    def join(self, follower: Follower) -> None:
        self._followers.append(follower)
        self._alone.clear()

    def leave(self, follower: Follower) -> None:
        if follower in self._followers:
            self._followers.remove(follower)
            if not self._followers:
                self._alone.set()

    async def run(self) -> Outcome:
        """Raises `ServiceError`: there is no answer, for any who still follow."""
        try:
            outcome = await self._obtain()
            while outcome is None:  # the record was lost under the run: its new owner's answer counts
                outcome = await self._obtain()
            return outcome
        finally:
            self.is_ending = True
            if self._owns:
                with contextlib.suppress(StoreUnavailableError):  # then its lease will end
                    await self._records.release(self.name, owner=self._owner)

    async def _obtain(self) -> Outcome | None:
        """Make the answer, or wait for whoever makes it. None: it has to be obtained again."""
        pause_s = FIRST_POLL_S
        runs_elsewhere_until = 0.0
        is_first = True
        while True:
            try:
                claim = await self._records.claim(
                    self.name, owner=self._owner, tenant=self._tenant, body=self.body, is_first=is_first
                )
            except SealBrokenError:
                logger.exception("idempotency_answer_did_not_open")
                raise _not_kept() from None
            except StoreUnavailableError:
                # Whoever was known to run it may run still.
                if time.monotonic() >= runs_elsewhere_until:
                    return await self._make(is_recorded=False)
            else:
                if claim.outcome in ("claimed", "full"):
                    return await self._make(is_recorded=claim.outcome == "claimed")
                if claim.outcome != "running":
                    return Outcome(self._kept(claim), None)
                runs_elsewhere_until = time.monotonic() + claim.lease_left_s
            is_first = False
            await self._pause(pause_s * random.uniform(0.5, 1))  # noqa: S311  # spread, not secrecy
            pause_s = min(pause_s * 1.5, LAST_POLL_S)

    def _kept(self, claim: Claim) -> Recorded:
        if claim.outcome == "mismatch":
            raise IdempotencyKeyReused("This Idempotency-Key was used with another request body.")
        if not claim.answer:
            raise _not_kept()
        return Recorded.from_bytes(claim.answer)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._alone.wait()
                self.is_ending = True
                raise ClientGone("Nobody waits for this answer.")

    async def _make(self, *, is_recorded: bool) -> Outcome | None:
        self.is_recorded = self._owns = is_recorded
        for _ in range(RUNS):
            if not self._followers:
                break
            run = Run(max(self._followers, key=lambda follower: follower.call.deadline.at))
            async with running(self._hold(run)):
                await run.perform()
            if run.is_stopped and self.is_ending:
                raise ClientGone("Nobody waits for this answer.")
            if run.is_stopped:
                self._give_way(run)
                return None
            if run.recording.is_whole and run.recording.status != _TIMED_OUT:
                try:
                    return await self._conclude(run)
                except RecordLostError:  # it was frozen, and has not renewed since
                    self._owns = False
                    self._give_way(run)
                    return None
            # Its stream broke off, or its time is up. The others have heard nothing yet, and may have more time.
            if not run.maker.own.done():
                run.maker.own.set_result(run.recording)
            self.leave(run.maker)
        raise UpstreamFailed("The answer broke off before its end.", code="stream_interrupted")

    def _give_way(self, run: Run) -> None:
        """To the answer of the record's new owner."""
        if run.maker.own.done():  # it has read a part of the answer that does not count
            self.leave(run.maker)

    async def _hold(self, run: Run) -> None:
        """Renew the lease; stop the run when it is lost, and when nobody waits any more, here or elsewhere.

        To be ended for good: redis-py may swallow a cancellation, and the answer would wait for the next one.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._records.keeping.lease_s / 3):
                    await self._alone.wait()
            asked_s: float | None = math.inf
            if self._owns:
                with contextlib.suppress(StoreUnavailableError):
                    asked_s = await self._records.renew(self.name, owner=self._owner)
            if asked_s is None:
                logger.warning("idempotency_lease_lost")
                self._owns = False
                run.stop()
                return
            if not self._followers:
                if asked_s > WAITED_LATELY_S:
                    self.is_ending = True
                    run.stop()
                    return
                await asyncio.sleep(min(ALONE_RENEWAL_S, self._records.keeping.lease_s / 3))

    async def _conclude(self, run: Run) -> Outcome:
        recording = run.recording
        recorded = recording.recorded
        if self._owns and recording.status and (recorded is None or recorded.is_final):
            answer = b"" if recorded is None else recorded.to_bytes()
            try:
                self.is_recorded = await self._records.finish(
                    self.name, owner=self._owner, tenant=self._tenant, answer=answer
                )
                self._owns = False
            except StoreUnavailableError:
                self.is_recorded = False  # and released if it can be, so that a retry need not wait for the lease
        if recorded is None:
            raise _not_kept()
        return Outcome(recorded, run.maker)


def _not_kept() -> AnswerNotKept:
    return AnswerNotKept("This request was answered, and its answer could not be kept. Use a new Idempotency-Key.")
