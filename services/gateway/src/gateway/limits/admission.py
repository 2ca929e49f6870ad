"""One admitted call: what it took, and how that is put right once its usage is known."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from common import wire
from gateway.limits.demand import cost_of
from gateway.limits.estimate import choices
from gateway.limits.ledger import NO_MODEL
from gateway.limits.scopes import interval_us
from gateway.limits.settling import mark_of
from gateway.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.usage import Usage
    from gateway.call import Call
    from gateway.limits.demand import Demand
    from gateway.limits.ledger import Measure
    from gateway.limits.limiter import Limiter
    from gateway.limits.scopes import Claim
    from gateway.limits.store import Word
    from gateway.limits.verdict import Verdict

logger = logging.getLogger(__name__)
_SERVED = ("hit", "coalesced")


@dataclass(slots=True)
class Admission:
    call: Call
    demand: Demand
    limiter: Limiter
    verdict: Verdict | None = None
    """None: nothing limits this call."""
    model: str | None = None
    """That answered, if it said so: another than the one that was asked for after a fallback."""
    is_cached: bool = False
    id: str = field(default_factory=lambda: uuid4().hex)
    """Its own, not the request's: a request whose Idempotency-Key lost its lease may be admitted a second time."""
    reservation: Reservation = field(init=False)
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self.reservation = Reservation(self.settle)
        self._began = self.limiter.clock()

    @property
    def taken(self) -> list[Claim]:
        """What the call was counted against: not what a limit that only watches would have refused."""
        if self.verdict is None:
            return []
        both = zip(self.demand.claims, self.verdict.standings, strict=True)
        return [claim for claim, standing in both if not standing.violations]

    def hear(self, headers: Mapping[str, str]) -> None:
        """Learn from the answer's headers which model gave it, and whether it came from the cache."""
        self.model = headers.get(wire.MODEL)
        self.is_cached = headers.get(wire.CACHE) in _SERVED

    def settle(self, usage: Usage | None) -> None:
        """Put right what was taken; nothing is awaited, nothing fails. None: nothing was used."""
        if usage is not None and self.reservation.is_unheard:
            usage = self._with_the_unheard(usage)
        cost = self._cost(usage)
        self._count(usage, cost)
        if usage is not None and not usage.is_estimated:
            written = usage.output_tokens // choices(self.call)
            took_s = self.limiter.clock() - self._began
            self.limiter.experience.learn(self.call.caller.key_id, self.call.model, written, took_s)
        if self.verdict is None:
            return
        used = 0 if usage is None else usage.input_tokens + usage.output_tokens
        # Usage without a price: what was reserved stands for it.
        spent = self.demand.cost if usage is not None and cost is None else cost or 0
        self.call.decision.note("settled", f"{used}tok,{spent}uusd")
        taken = self.taken
        moved = [
            interval_us(used, claim.scope.limits.tokens_per_minute) - claim.tokens_us if claim.tokens_us >= 0 else 0
            for claim in taken
        ]
        self.limiter.local.settle(taken, moved, spent - self.demand.cost, self.verdict)
        if self.limiter.settling is not None and taken:
            self._tell_store(taken, moved, spent)

    def _tell_store(self, taken: Sequence[Claim], moved: Sequence[int], spent: int) -> None:
        assert self.verdict is not None and self.limiter.settling is not None  # noqa: S101, PT018
        is_exact = self.verdict.is_exact
        keys = [mark_of(self.call.caller.tenant, self.id)]
        words: list[Word] = [self.verdict.day, self.verdict.month]
        for claim, by in zip(taken, moved, strict=True):
            keys += [claim.scope.counters, claim.scope.leases]
            # What this process admitted alone, the store has not heard of yet.
            requests = 0 if is_exact else max(claim.request_us, 0)
            tokens = by if is_exact else max(by + claim.tokens_us, 0)
            money = (spent - self.demand.cost if is_exact else spent) if claim.has_budget else 0
            words += [requests, tokens, money, int(claim.has_budget)]
        self.limiter.settling.settle(self.id, keys, words)

    def _with_the_unheard(self, usage: Usage) -> Usage:
        """A whole answer that was given up came with no word of its size: what was reserved for it, in proportion to
        how much of the time had passed that such calls take. Leaving early is not free, and leaving at once is cheap.
        """
        expected_s = self.limiter.experience.seconds(self.call.caller.key_id, self.call.model)
        share = min((self.limiter.clock() - self._began) / max(expected_s, 0.001), 1.0)
        reserved = self.demand.tokens - self.demand.input_tokens
        return replace(usage, output_tokens=max(usage.output_tokens, round(reserved * share)))

    def _cost(self, usage: Usage | None) -> int | None:
        """In micro-dollars, rounded up; None: nobody knows."""
        if usage is None:
            return 0
        if usage.cost_usd is not None:
            return cost_of({"input_usd": usage.cost_usd * 1_000_000, "output_usd": 0.0}, 1, 0)
        price = self.limiter.catalogue.price(self.model or self.call.model)
        return cost_of(price, usage.input_tokens, usage.output_tokens)

    def _count(self, usage: Usage | None, cost: int | None) -> None:
        measures: dict[Measure, int] = {"requests": 1}
        if self.is_cached:
            measures["cached"] = 1
        if usage is not None:
            measures |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
            measures |= {"cost_unknown": 1} if cost is None else {"cost_micro_usd": cost}
            if usage.is_estimated:
                measures["estimated"] = 1
        model = self.model or self.call.model
        is_real = usage is not None or self.is_cached or self.limiter.catalogue.has(model)
        caller = self.call.caller
        self.limiter.ledger.add(caller.tenant, caller.key_id, model if is_real else NO_MODEL, measures)
