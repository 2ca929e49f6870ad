"""Admits a call under every limit that it falls under, or refuses it; and settles it once its usage is known."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.limits import headers as shown
from gateway.limits.admission import Admission
from gateway.limits.demand import demand_of, rate_of
from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.scopes import scopes_of
from gateway.limits.settling import LEASE_US, mark_of
from gateway.limits.store import load_script
from gateway.limits.verdict import Standing, Verdict, refusal, violations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.call import Call
    from gateway.catalogue import ModelCatalogue
    from gateway.limits.demand import Demand
    from gateway.limits.learning import Experience
    from gateway.limits.ledger import Ledger
    from gateway.limits.local import LocalLimits
    from gateway.limits.settling import Settling
    from gateway.limits.store import LimitsStore, Word

logger = logging.getLogger(__name__)

ADMIT = load_script("admit")
FENCE_US = 300_000
"""An admission that the store comes to later than this does nothing: its caller has been decided upon here."""
DRIFT_US = 100
"""By which the store's clock is taken to be less ahead after each answer: one that was set back gets noticed."""
AGAIN_WITHIN_S = 0.05
"""An admission that came too late is asked for again only if its answer took no longer: nobody waits twice."""
LONGEST_LEASE_WAIT_S = 30
_LATE = 2
_PER_SCOPE = 6


@dataclass(slots=True)
class Limiter:
    catalogue: ModelCatalogue
    local: LocalLimits
    experience: Experience
    ledger: Ledger
    store: LimitsStore | None = None
    """None: this process alone decides, by its share."""
    settling: Settling | None = None
    replicas: int = 1
    spans: StoreSpans = UNTRACED
    clock: Callable[[], float] = time.monotonic
    store_time: Callable[[], int] = lambda: 0
    """Microseconds since 1970; 0: the store's own clock. For tests."""
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """What was decided, and which limit of which scope stood in the way: `admitted`, `refused`, `degraded` (admitted,
    by this process alone because the store was away), and beside one of these `shadow` for each limit that watches."""
    note_share: Callable[[str, float], object] = lambda *_: None
    """Told of each admitted call: its tightest limit, and how much of it is used now, 0 to 1."""
    _ahead_us: int | None = field(default=None, init=False)
    """Of the store's clock before ours."""

    async def admit(self, call: Call, *, rate_only: bool = False) -> Admission:
        """Take what `call` will need of every limit, all or nothing; `rate_only`: it runs nothing, and only counts.

        Raises `RateLimited` (429), `TooLargeForLimit` (400), `PriceUnknown` (403) or `PricesUnavailable` (503).
        A caller without limits costs no call to the store.
        """
        scopes = scopes_of(call.caller, call.model)
        demand = rate_of(scopes) if rate_only else demand_of(call, scopes, self.catalogue, self.experience)
        admission = Admission(call, demand, self)
        if not scopes:
            call.decision.note("limits", "none")
            return admission
        outcome = "admitted"
        try:
            with self.spans.operation("admit"):
                admission.verdict = await self._decide(admission)
        except LimitsStoreAwayError:
            outcome = "degraded"
            call.answer_headers[shown.DEGRADED] = "1"
            admission.verdict = self.local.admit(demand.claims, demand.cost)
        self._report(call, demand, admission.verdict)
        self.outcomes[outcome, "", ""] += 1
        self._keep_leases(admission)
        return admission

    async def _decide(self, admission: Admission) -> Verdict:
        demand = admission.demand
        if self.store is None:
            return self.local.admit(demand.claims, demand.cost)
        keys = [name for claim in demand.claims for name in (claim.scope.counters, claim.scope.leases)]
        words: list[Word] = [word for claim in demand.claims for word in claim.words()]
        began = self.clock()
        for _ in range(2):
            before: list[Word] = [self.store_time(), self._not_after_us(), admission.id, LEASE_US, demand.cost]
            answer = self.store.submit(ADMIT, keys, before + words)
            try:
                reply = await asyncio.shield(answer)
            except asyncio.CancelledError:
                answer.add_done_callback(lambda done: self._undo(done, admission))
                raise
            self._hear_clock(reply[1])
            if reply[0] != _LATE:
                verdict = _verdict(reply)
                self.local.note(demand.claims, verdict)
                return verdict
            if self.clock() - began > AGAIN_WITHIN_S:
                break
        raise LimitsStoreAwayError("late")

    def _not_after_us(self) -> int:
        if self._ahead_us is None or self.store_time():
            return 0
        return int(self.clock() * 1_000_000) + self._ahead_us + FENCE_US

    def _hear_clock(self, store_now_us: int) -> None:
        ahead = store_now_us - int(self.clock() * 1_000_000)
        self._ahead_us = ahead if self._ahead_us is None else max(ahead, self._ahead_us - DRIFT_US)

    def _undo(self, answer: asyncio.Future[Any], admission: Admission) -> None:
        # The caller left while the store was deciding; what it may have taken is given back.
        if not answer.cancelled() and answer.exception() is None and answer.result()[0] == 1:
            admission.verdict = _verdict(answer.result())
            self.local.note(admission.demand.claims, admission.verdict)
            admission.settle(None)

    def _report(self, call: Call, demand: Demand, verdict: Verdict) -> None:
        """Say what was decided, and raise if it was a refusal."""
        decision = call.decision
        decision.note("limits", "exact" if verdict.is_exact else "local")
        shares = shown.show(verdict, demand.claims, call.answer_headers, decision, replicas=self.replicas)
        decision.note("reserved", f"{demand.tokens}tok,{demand.cost}uusd")
        broken = list(violations(verdict, demand.claims, lease_wait_us=self._lease_wait_us(call, demand)))
        for violation in broken:
            if violation.scope.is_shadow:
                self.outcomes["shadow", violation.limit, violation.scope.name] += 1
        watched = [f"{violation.scope.name}.{violation.limit}" for violation in broken if violation.scope.is_shadow]
        if watched:
            decision.note("shadow", ",".join(watched))
        if not verdict.is_admitted:
            worst, error = refusal([violation for violation in broken if not violation.scope.is_shadow])
            decision.note("refused", f"{worst.scope.name}.{worst.limit}")
            decision.note("retry_after", f"{error.headers['retry-after']}s")
            self.outcomes["refused", worst.limit, worst.scope.name] += 1
            self.ledger.add(
                call.caller.tenant,
                call.caller.key_id,
                self.catalogue.shown_name(call.model),
                {"requests": 1, "refused": 1},
            )
            raise error
        if shares:
            share, limit = max(shares)
            self.note_share(limit, share)

    def _lease_wait_us(self, call: Call, demand: Demand) -> int:
        """When a place becomes free, about: calls of this kind take so long, and so many run."""
        places = max(min((claim.most_leases for claim in demand.claims if claim.most_leases > 0), default=1), 1)
        seconds = self.experience.seconds(call.caller.key_id, call.model) / places
        return min(max(math.ceil(seconds), 1), LONGEST_LEASE_WAIT_S) * 1_000_000

    def _keep_leases(self, admission: Admission) -> None:
        leases = [claim.scope.leases for claim in admission.taken if claim.most_leases >= 0]
        if leases and self.settling is not None:
            self.settling.keep(admission.id, mark_of(admission.call.caller.tenant, admission.id), leases)


def _verdict(reply: Sequence[int]) -> Verdict:
    outcome, now, day, month = reply[:4]
    rest = reply[4:]
    standings = [Standing(*rest[at : at + _PER_SCOPE]) for at in range(0, len(rest), _PER_SCOPE)]
    return Verdict(outcome == 1, now, day, month, standings)
