"""A target as it lives: how to call it, how it has been lately, and how much it gets."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from random import random, uniform
from typing import TYPE_CHECKING, Any

from common.errors import ClientGone
from common.wire import Price
from inference.breaker import Breaker
from inference.concurrency import ConcurrencyLimit
from inference.retry_budget import RetryBudget
from inference.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.errors import ServiceError
    from inference.canary import Canary
    from inference.catalogue import Batching, TargetSpec
    from inference.concurrency import Slot
    from inference.errors import AttemptFailedError
    from inference.upstream import Upstream

LONGEST_REST_S = 60.0
"""However long a target's `Retry-After` is: after that it is asked again."""
_REFUSED = frozenset({"status_429", "status_502", "status_503", "status_504", "connect", "timeout", "broken"})
"""What the throttle takes for "not accepted"."""
_CONGESTED = frozenset({"status_429", "status_503", "timeout"})
_ANSWERED = frozenset(
    {"status_400", "status_404", "status_408", "status_409", "status_413", "status_415", "status_422", "status_429"}
)
"""The target judged the request, or asked for less of them: it is not broken."""
_CALLERS_FAULT = _ANSWERED - {"status_404"}
"""No error of a canary's; a 404 is: its provider does not know the model."""
_NO_FAULT_OF_THE_TARGET = frozenset({"client_gone", "client_stalled", "deadline_exceeded", "draining"})
OK = "ok"
CANCELLED = "cancelled"
"""The caller left, or nobody foresaw what happened: the call said nothing about the target."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for every target of this process."""

    retry_budget: float = 100
    throttle_ratio: float = 2.0
    min_concurrency: int = 4
    max_answer_bytes: int = 32 * 1024 * 1024
    max_stream_bytes: int = 8 * 1024 * 1024
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random
    uniform: Callable[[float, float], float] = uniform


class Target:
    """One target in one process. Survives a reload of the catalogue that leaves it as it is."""

    def __init__(self, spec: TargetSpec, upstream: Upstream, policy: Policy) -> None:
        self.spec = spec
        self.name = spec.name
        self.upstream = upstream
        self.price = Price(input_usd=spec.price.input_usd, output_usd=spec.price.output_usd) if spec.price else None
        self.first_event_timeout_s = spec.timeouts.first_event_s
        self.event_gap_timeout_s = spec.timeouts.gap_s
        self.total_timeout_s = spec.timeouts.total_s
        self.max_answer_bytes = policy.max_answer_bytes
        self.max_stream_bytes = policy.max_stream_bytes
        self.batching: Batching | None = spec.batching
        self.breaker = Breaker(spec.name, clock=policy.clock, uniform=policy.uniform)
        self.throttle = Throttle(policy.throttle_ratio, clock=policy.clock, random=policy.random)
        self.budget = RetryBudget(policy.retry_budget)
        self.concurrency = ConcurrencyLimit(floor=policy.min_concurrency, ceiling=spec.max_concurrency)
        self.attempts = 0
        self.failures: dict[str, int] = {}
        """By reason."""
        self.outcomes = Counter({OK: 0})
        """Calls that are over: `ok`, `cancelled`, or why they failed, in words of ours."""
        self.retries: Counter[str] = Counter()
        """Of its failures, by reason: those that were tried again, here or elsewhere."""
        self._clock = policy.clock
        self._rests_until = 0.0
        self._last_sign = policy.clock()

    @property
    def is_well(self) -> bool:
        """Neither ejected nor resting."""
        return self.breaker.admits and self.rests_for_s <= 0

    @property
    def rests_for_s(self) -> float:
        """What is left of the time for which it asked to be left alone."""
        return self._rests_until - self._clock()

    @property
    def load(self) -> float:
        """Calls in flight per weight."""
        return self.concurrency.in_flight / self.spec.weight if self.spec.weight else float("inf")

    def is_able(self, body: Mapping[str, Any]) -> bool:
        """Whether the request stays within what this target is made for."""
        caps = self.spec.caps
        tokens = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return _within(caps.max_output_tokens, *tokens) and _within(caps.choices, body.get("n"))

    def name_for(self, public_name: str) -> str:
        """What the provider calls the model of that public name."""
        return self.spec.model or public_name

    def rewritten(self, body: Mapping[str, Any], public_name: str) -> Mapping[str, Any]:
        """The request with the provider's name of the model; the very same if it has that already.

        `public_name` is that of the model which is asked, not the one that was asked for: it may be its fallback.
        """
        name = self.name_for(public_name)
        return body if body.get("model") == name else {**body, "model": name}

    def begin(self, slot: Slot, canary: Canary | None, *, is_stream: bool) -> Lease:
        """A call begins, in a slot that has been taken."""
        self.attempts += 1
        return Lease(self, slot, self.breaker.begin(), canary, is_stream, self._clock(), self._clock)

    def waited_in_vain(self, since: float) -> None:
        """Nobody got a slot in time. If it gave no sign of life meanwhile either, that is its failure."""
        if self._last_sign < since:
            self._note("pool_wait")
            self.breaker.failed("pool_wait", is_probe=False)

    def sign_of_life(self) -> None:
        self._last_sign = self._clock()

    def rest(self, seconds: float) -> None:
        self._rests_until = max(self._rests_until, self._clock() + min(seconds, LONGEST_REST_S))

    def note_failure(self, failed: AttemptFailedError, slot: Slot, *, is_probe: bool) -> None:
        self._note(failed.reason)
        if failed.reason in _CONGESTED:
            self.concurrency.congested(slot)
        if failed.reason in _REFUSED:
            self.throttle.refused()
        else:
            self.throttle.accepted()
        if failed.reason not in _ANSWERED:
            self.breaker.failed(failed.reason, is_probe=is_probe)
        else:
            self.breaker.succeeded(is_probe=is_probe)
        if failed.reason in ("status_429", "status_503") and failed.retry_after_s:
            self.rest(failed.retry_after_s)

    def note_success(self, *, is_probe: bool) -> None:
        self.concurrency.succeeded()
        self.throttle.accepted()
        self.budget.earn()
        self.breaker.succeeded(is_probe=is_probe)

    def note_break(self, code: str) -> None:
        """An answer that had begun well broke."""
        self._note(code)
        self.breaker.failed(code, is_probe=False)

    def _note(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1


@dataclass(slots=True)
class Lease:
    """One call to a target, from its slot to the end of its answer."""

    target: Target
    slot: Slot
    is_probe: bool
    canary: Canary | None
    """Of the model that the target was asked as; None: it has none."""
    is_stream: bool
    started: float
    clock: Callable[[], float]
    _is_over: bool = field(default=False, init=False)
    _outcome: str | None = field(default=None, init=False)
    """None: the call has not been judged."""

    def answered(self) -> None:
        """It gave a whole answer, or the first event of a stream, which goes on."""
        self._outcome = OK
        self.target.sign_of_life()
        self.target.note_success(is_probe=self.is_probe)
        if self.canary is not None:
            ttft_s = self.clock() - self.started if self.is_stream else None
            self.canary.note(self.target.name, is_error=False, ttft_s=ttft_s)

    def failed(self, failed: AttemptFailedError) -> None:
        self._outcome = failed.reason
        if failed.reason not in ("timeout", "connect"):
            self.target.sign_of_life()
        self.target.note_failure(failed, self.slot, is_probe=self.is_probe)
        if self.canary is not None:
            self.canary.note(self.target.name, is_error=failed.reason not in _CALLERS_FAULT)

    def end(self, error: ServiceError | None = None) -> None:
        """Give the slot back, once. Without a judgement before, the call said nothing about the target."""
        if self._is_over:
            return
        self._is_over = True
        self.target.concurrency.release()
        self.target.outcomes[self._outcome_with(error)] += 1
        if self._outcome is None:
            self.target.breaker.abandoned(is_probe=self.is_probe)
        elif error is not None and error.code not in _NO_FAULT_OF_THE_TARGET:
            self.target.note_break(error.own_code or error.type)
            if self.canary is not None:
                self.canary.note(self.target.name, is_error=True)

    def _outcome_with(self, error: ServiceError | None) -> str:
        if self._outcome is None or (error is not None and error.code == ClientGone.code):
            return CANCELLED
        return self._outcome if error is None else error.own_code or error.type


def _within(cap: int | None, *asked: object) -> bool:
    return cap is None or all(not isinstance(amount, int) or amount <= cap for amount in asked)
