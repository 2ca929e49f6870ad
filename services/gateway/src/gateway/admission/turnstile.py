"""The slots of the way to inference: bounded, with a short queue before them that is fair between tenants."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import BatchOverloaded, Overloaded
from gateway.admission.concurrency import AdaptiveLimit, Verdict
from gateway.admission.prospects import Kind, Prospects

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from common.identity import HopIdentity
    from gateway.decision import Decision

QUEUE_WAIT_S = 0.5
VAIN_WAIT_S = 0.05
"""Where most wait in vain. Half a second absorbs a burst; in a load that stays, it only makes a refusal late."""
BATCH_SHARE = 0.8
LIFO_AFTER_S = 0.1
UNBOUNDED = 2**31
_MODELS = 256
"""Whose limits are remembered. A name that nobody serves costs one place here until an idle one is needed."""


@dataclass(eq=False, slots=True)
class _Waiter:
    tenant: str
    is_batch: bool
    model: AdaptiveLimit
    since: float
    over: asyncio.Future[None]
    """The wait is: with a slot, or without, when another took its place."""
    slot: Slot | None = None


class Slot:
    """A call under way. `release` it when its work has ended, whatever ended it; a second time does nothing."""

    __slots__ = ("_epoch", "_is_held", "_turnstile", "has_waited", "is_batch", "model", "tenant", "verdict")

    def __init__(self, turnstile: Turnstile, model: AdaptiveLimit, tenant: str, *, is_batch: bool) -> None:
        self._turnstile = turnstile
        self._epoch = model.enter()
        self._is_held = True
        self.model = model
        self.tenant = tenant
        self.is_batch = is_batch
        self.has_waited = False
        self.verdict: Verdict = "unknown"

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.model.leave(self._epoch, self.verdict)
            self._turnstile.leave(self)


class Turnstile:
    """At most `ceiling` calls at once, of batch priority at most 80 % of them, of one model what its limit says.

    Who finds no slot waits at most 500 ms, or 50 where such calls mostly waited in vain. `interactive` goes before
    `batch`, then the tenant with the fewest slots, in turn if several have as few; of one tenant the oldest, or the
    newest once anybody has waited 100 ms: then the oldest are about to give up. In a full queue a newcomer takes the
    place of one of the tenant that has most there, if that is not its own.
    Source: Facebook's adaptive LIFO, "Fail at Scale" (ACM Queue, 2015).
    """

    def __init__(
        self,
        ceiling: int,
        *,
        queue_wait_s: float = QUEUE_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        waiting_span: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """`waiting_span` is entered for as long as a call waits."""
        self._ceiling = ceiling
        self._queue_wait_s = queue_wait_s
        self._clock = clock
        self._waiting_span = waiting_span
        self._in_use = 0
        self.waiting = 0
        self._batch_in_use = 0
        self._held: collections.Counter[str] = collections.Counter()
        """Slots, by tenant."""
        self._models: dict[str, AdaptiveLimit] = {}
        self._prospects = Prospects()
        self._interactive: dict[str, collections.deque[_Waiter]] = {}
        self._batch: dict[str, collections.deque[_Waiter]] = {}
        self.is_batch_shed: Callable[[], bool] = lambda: False
        self.note_wait: Callable[[float], object] = lambda _: None
        """Told of each wait that is over, in seconds, whatever came of it."""

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def ceiling(self) -> int:
        return self._ceiling

    def limit_of(self, model: str) -> int:
        """How many calls of `model` may be under way at present."""
        return self._limit_of(model).limit

    async def enter(self, identity: HopIdentity, model: str, decision: Decision, *, patience_s: float) -> Slot:
        """Returns a slot. Raises `Overloaded` or `BatchOverloaded`; `patience_s` may shorten the wait."""
        limit = self._limit_of(model)
        is_batch = identity.priority == "batch"
        if is_batch and self.is_batch_shed():
            raise _refusal("batch_shed", decision, is_batch=True)
        kind = Kind(identity.tenant, model, is_batch)
        if self._has_room(limit, is_batch=is_batch):
            self._prospects.note(kind, got_one=True)
            return self._take(limit, kind.tenant, is_batch=is_batch)
        longest_s = min(self._queue_wait_s, VAIN_WAIT_S) if self._prospects.are_poor(kind) else self._queue_wait_s
        try:
            slot = await self._queue(kind, limit, decision, min(longest_s, max(patience_s, 0)))
        except (Overloaded, BatchOverloaded):
            self._prospects.note(kind, got_one=False)
            raise
        self._prospects.note(kind, got_one=True)
        return slot

    async def _queue(self, kind: Kind, limit: AdaptiveLimit, decision: Decision, wait_s: float) -> Slot:
        is_batch = kind.is_batch
        waiter = _Waiter(kind.tenant, is_batch, limit, self._clock(), asyncio.get_running_loop().create_future())
        if not self._make_place(waiter):
            raise _refusal("queue_full", decision, is_batch=is_batch)
        self._line_up(waiter)
        try:
            with self._waiting_span():
                async with asyncio.timeout(wait_s):
                    await waiter.over
        except BaseException as error:
            self._step_out(waiter)
            if isinstance(error, TimeoutError):
                raise _refusal("queue_wait", decision, is_batch=is_batch) from None
            raise
        finally:
            self.note_wait(self._clock() - waiter.since)
        if waiter.slot is None:
            raise _refusal("queue_full", decision, is_batch=is_batch)
        waiter.slot.has_waited = True
        return waiter.slot

    def leave(self, slot: Slot) -> None:
        self._in_use -= 1
        self._batch_in_use -= slot.is_batch
        self._held[slot.tenant] -= 1
        if not self._held[slot.tenant]:
            del self._held[slot.tenant]
        while (waiter := self._next()) is not None:
            self._remove(waiter)
            line = self._line(waiter)
            if waiter.tenant in line:
                line[waiter.tenant] = line.pop(waiter.tenant)  # at the end: it is the others' turn
            waiter.slot = self._take(waiter.model, waiter.tenant, is_batch=waiter.is_batch)
            waiter.over.set_result(None)

    def _limit_of(self, model: str) -> AdaptiveLimit:
        limit = self._models.get(model)
        if limit is None:
            if len(self._models) >= _MODELS:
                idle = [name for name, one in self._models.items() if not one.in_use and not one.waiting]
                for name in idle[: _MODELS // 2]:
                    del self._models[name]
            limit = self._models[model] = AdaptiveLimit(self._ceiling)
        return limit

    def _has_room(self, model: AdaptiveLimit, *, is_batch: bool) -> bool:
        return (
            self._in_use < self._ceiling
            and model.has_room
            and not (is_batch and self._batch_in_use >= max(int(self._ceiling * BATCH_SHARE), 1))
        )

    def _take(self, model: AdaptiveLimit, tenant: str, *, is_batch: bool) -> Slot:
        self._in_use += 1
        self._held[tenant] += 1
        self._batch_in_use += is_batch
        return Slot(self, model, tenant, is_batch=is_batch)

    def _line(self, waiter: _Waiter) -> dict[str, collections.deque[_Waiter]]:
        return self._batch if waiter.is_batch else self._interactive

    def _line_up(self, waiter: _Waiter) -> None:
        self._line(waiter).setdefault(waiter.tenant, collections.deque()).append(waiter)
        waiter.model.waiting += 1
        self.waiting += 1

    def _remove(self, waiter: _Waiter) -> None:
        line = self._line(waiter)
        line[waiter.tenant].remove(waiter)
        if not line[waiter.tenant]:
            del line[waiter.tenant]
        waiter.model.waiting -= 1
        self.waiting -= 1

    def _step_out(self, waiter: _Waiter) -> None:
        """It waits no longer: its place is free, or the slot that it was given in the same moment."""
        if waiter.slot is not None:
            waiter.slot.release()
        elif waiter in self._line(waiter).get(waiter.tenant, ()):
            self._remove(waiter)

    def _next(self) -> _Waiter | None:
        """The waiter whose turn it is and who can go."""
        for line in (self._interactive, self._batch):
            if not line:
                continue
            is_lifo = self._clock() - min(own[0].since for own in line.values()) > LIFO_AFTER_S
            for _, own in sorted(line.items(), key=self._slots_of):  # of those with as many, in turn
                for waiter in reversed(own) if is_lifo else own:
                    if not waiter.over.done() and self._has_room(waiter.model, is_batch=waiter.is_batch):
                        return waiter
        return None

    def _slots_of(self, queued: tuple[str, object]) -> int:
        return self._held[queued[0]]

    def _make_place(self, newcomer: _Waiter) -> bool:
        """Whether the newcomer may wait; somebody else may have had to go for it."""
        if self.waiting < max(self._ceiling // 2, 1) and newcomer.model.may_wait:
            return True
        of_model_only = not newcomer.model.may_wait
        for line in (self._batch, self._interactive):
            counts = {
                tenant: [one for one in own if one.model is newcomer.model or not of_model_only]
                for tenant, own in line.items()
            }
            longest = max(counts.values(), key=len, default=[])
            outranks = line is self._batch and not newcomer.is_batch
            if longest and (outranks or len(longest) > len(counts.get(newcomer.tenant, [])) + 1):
                victim = longest[0]
                self._remove(victim)
                if not victim.over.done():
                    victim.over.set_result(None)
                return True
            if newcomer.is_batch:
                break
        return False


def _refusal(why: str, decision: Decision, *, is_batch: bool) -> Overloaded | BatchOverloaded:
    decision.note("refused", why)
    decision.note("limit_of", "platform")
    message = "The platform is at its capacity; nothing was started."
    return BatchOverloaded(message) if is_batch else Overloaded(message)
