"""Tells the store what the calls of this process really used, a few milliseconds later and many at once; keeps the
leases of those that still run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.background import end
from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.store import LimitsStore, load_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gateway.limits.store import Word

logger = logging.getLogger(__name__)

SETTLE = load_script("settle")
RENEW = load_script("renew")
LEASE_US = 30_000_000
RENEW_EVERY_S = 10.0
GATHER_S = 0
"""One turn of the loop: who asks again at once has to find its place free. Under load the store's pipeline gathers."""
MOST_WAITING = 10_000
"""Settlements that wait for the store to come back; of more the oldest are lost, and their reservations stand."""
MARK_LIFE_S = 300
ASKED_AGAIN_FOR_S = 120
"""Of a settlement whose answer was lost. Shorter than the mark lives: it is never counted twice."""
LEAVE_S = 0.5


@dataclass(slots=True)
class _Settlement:
    keys: Sequence[str]
    words: Sequence[Word]
    sent_at: float | None = None


@dataclass(slots=True)
class _Lease:
    keys: Sequence[str]
    renew_at: float


class Settling:
    def __init__(
        self, store: LimitsStore, *, clock: Callable[[], float] = time.monotonic, spans: StoreSpans = UNTRACED
    ) -> None:
        self._store = store
        self._spans = spans
        self._clock = clock
        self._waiting: deque[_Settlement] = deque()
        self._has_work = asyncio.Event()
        self._leases: dict[str, _Lease] = {}
        """By the admission's id, the next to be renewed first."""
        self._flushing: asyncio.Task[None] | None = None
        self.lost = 0

    def settle(self, admission_id: str, keys: Sequence[str], words: Sequence[Word]) -> None:
        """Have `settle.lua` run with `keys` and, after the first three, `words`; soon, once, whatever happens."""
        self._leases.pop(admission_id, None)
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(_Settlement(keys, (0, admission_id, MARK_LIFE_S, *words)))
        self._has_work.set()

    def keep(self, admission_id: str, mark: str, leases: Sequence[str]) -> None:
        """Renew these leases until the call is settled."""
        self._leases[admission_id] = _Lease((mark, *leases), self._clock() + RENEW_EVERY_S)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Settle and renew within the body; what waits at its end gets half a second to leave."""
        tasks = [asyncio.create_task(self._settle_all()), asyncio.create_task(self._renew_all())]
        try:
            yield
        finally:
            await end(*tasks)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    if self._flushing is not None:
                        await self._flushing
                    await self.flush()

    async def flush(self) -> None:
        """Send what waits. What the store does not take stays, unless its answer may have been lost too long ago."""
        batch = list(self._waiting)
        self._waiting.clear()
        self._has_work.clear()
        now = self._clock()
        sent = []
        for settlement in batch:
            if settlement.sent_at is not None and now - settlement.sent_at > ASKED_AGAIN_FOR_S:
                self.lost += 1
                continue
            try:
                sent.append((settlement, self._store.submit(SETTLE, settlement.keys, settlement.words)))
                settlement.sent_at = settlement.sent_at or now
            except LimitsStoreAwayError:
                self._waiting.append(settlement)
        if not sent:
            return
        with self._spans.in_background("settle"):
            answers = await asyncio.gather(*(answer for _, answer in sent), return_exceptions=True)
        failed = [at for (at, _), answer in zip(sent, answers, strict=True) if isinstance(answer, Exception)]
        self._waiting.extendleft(reversed(failed))

    async def _settle_all(self) -> None:
        while True:
            if self._store.is_resting:
                await asyncio.sleep(RENEW_EVERY_S / 100)
                continue
            await self._has_work.wait()
            await asyncio.sleep(GATHER_S)
            self._flushing = asyncio.create_task(self.flush())  # of its own: to stop does not cut it
            await asyncio.shield(self._flushing)
            if self._waiting:
                self._has_work.set()

    async def _renew_all(self) -> None:
        while True:
            await asyncio.sleep(self._until_next_s())
            await self.renew()

    def _until_next_s(self) -> float:
        first = next(iter(self._leases.values()), None)
        return RENEW_EVERY_S / 10 if first is None else max(first.renew_at - self._clock(), 0.05)

    async def renew(self) -> None:
        """Renew what is due. What the store does not take is due again with the next round."""
        now = self._clock()
        due = [(name, lease) for name, lease in self._leases.items() if lease.renew_at <= now]
        renewed = []
        for name, lease in due:
            with contextlib.suppress(LimitsStoreAwayError):
                renewed.append((name, lease, self._store.submit(RENEW, lease.keys, (0, name, LEASE_US))))
        if not renewed:
            return
        with self._spans.in_background("renew"):
            answers = await asyncio.gather(*(answer for *_, answer in renewed), return_exceptions=True)
        for (name, lease, _), answer in zip(renewed, answers, strict=True):
            if not isinstance(answer, Exception) and self._leases.pop(name, None) is not None:
                self._leases[name] = _Lease(lease.keys, now + RENEW_EVERY_S)


def mark_of(tenant: str, admission_id: str) -> str:
    """The name under which the store remembers that a call is settled."""
    return f"v1:settled:{{{tenant}}}:{admission_id}"
