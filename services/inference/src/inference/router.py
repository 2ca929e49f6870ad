"""Leads a question to the target that answers it, and owns the platform's only retries.

At most three attempts for a request, over all targets and models, before the first byte only. The next attempt goes to
another target of the model, then to the models that it names, at once; only when all have been tried is one asked
again, after full jitter, 0.2 s doubling to 2 s, or its `Retry-After`. Every attempt after the first draws on the retry
budget of the target that failed. Source: https://sre.google/sre-book/handling-overload/; AWS on backoff and jitter.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NoReturn, TypeVar

import stamina
from opentelemetry import trace

from common import wire
from common.deadline import HOP_RESERVE_S, LEAST_USEFUL_S
from common.errors import InvalidRequest, ServiceError, Unavailable
from common.telemetry import conventions
from inference.choice import choose
from inference.concurrency import WAIT_S, SaturatedError, Slot
from inference.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from inference.questions import Question
    from inference.served_models import ServedModel, ServedModels
    from inference.targets import Lease, Policy, Target

BASE_WAIT_S = 0.2
LONGEST_WAIT_S = 2.0
LONGEST_RETRY_AFTER_S = 10.0
"""An upstream that wants to be left alone for longer is not waited for: the caller is told, and decides."""
MAX_TIMEOUTS = 2
"""A call that timed out is tried once more: it may still be running at the upstream."""
TOO_LONG = "context_length_exceeded"

AnswerT = TypeVar("AnswerT")


class Saturated(Unavailable):
    """Every target that could answer has as many calls as it can take, and the wait for one was too long."""

    code = "upstream_saturated"


class Throttled(Unavailable):
    """The target refuses most of what it gets, so it gets less."""

    code = "upstream_throttled"


class Router:
    def __init__(self, served: ServedModels, policy: Policy, *, max_attempts: int) -> None:
        self.served = served
        """Replaced by a reload; a question stays with the version that it began with."""
        self.requests = 0
        self.attempts = 0
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        """Answers that another model gave than the one that was asked for, by both names."""
        self._policy = policy
        self._max_attempts = max_attempts

    async def run(self, question: Question, attempt: Callable[[Target, int], Awaitable[AnswerT]]) -> AnswerT:
        """Run `attempt(target, number)` until it succeeds, may not be repeated, or would outlive the deadline.

        When it returns, `question.route` holds the target's slot until it is ended. Raises the last attempt's
        `ServiceError`, with the number of attempts and, since nobody should retry what we have retried already,
        `x-should-retry: false`; `ModelNotFound`, `Saturated` or `Throttled` when nothing was attempted.
        """
        self.requests += 1
        journey = Journey(question, self.served, self._policy, self._max_attempts)
        route = question.route
        try:
            async for round_ in stamina.retry_context(
                on=journey.wait_before_next, attempts=journey.max_attempts, timeout=None
            ):
                with round_:
                    lease = await journey.next_call()
                    route.begin(journey.number, journey.model.name, lease.target, journey.why)
                    self.attempts += 1
                    answer = await _tried(attempt, lease, journey.number)
                    journey.arrived()
                    if journey.model.name != question.model:
                        self.fallbacks[question.model, journey.model.name] += 1
                    route.lead_to(journey.model.name, lease)
                    return answer
        except AttemptFailedError as failed:
            journey.tell(failed.error)
            raise failed.error from failed
        except ServiceError as error:
            if journey.number:
                journey.tell(error)
            raise
        raise AssertionError("unreachable")


async def _tried(attempt: Callable[[Target, int], Awaitable[AnswerT]], lease: Lease, number: int) -> AnswerT:
    try:
        answer = await attempt(lease.target, number)
    except AttemptFailedError as failed:
        lease.failed(failed)
        lease.end()
        raise
    except BaseException:
        lease.end()
        raise
    lease.answered()
    return answer


class Journey:
    """One question on its way: which targets it has tried, and which come next."""

    def __init__(self, question: Question, served: ServedModels, policy: Policy, max_attempts: int) -> None:
        self.number = 0
        self.max_attempts = max_attempts
        self._callers_attempts = question.max_attempts
        self.model = served.find(question.model)
        """The one that is asked at the moment."""
        self._asked_for = self.model
        self._question = question
        self._served = served
        self._policy = policy
        self._tried: list[Target] = []
        self._timeouts = 0
        self._drawn: tuple[Target, float] | None = None
        self._last_failure: AttemptFailedError | None = None
        self._slot = Slot(0)
        if not any(target.is_able(question.body) for target in self.model.targets()):
            raise InvalidRequest("The request asks for more than this model gives.", param=self._over(question))

    @property
    def why(self) -> str:
        """There is this attempt: it is the first, the prompt was too long for the model, or what failed before."""
        if self._last_failure is None:
            return "first"
        return "larger" if self._last_failure.error.code == TOO_LONG else self._last_failure.reason

    async def next_call(self) -> Lease:
        """The next target, with a slot of it taken. Raises `Saturated`, `Throttled`, or the last attempt's error."""
        question = self._question
        question.deadline.budget_s()  # nothing starts for a caller who is about to leave
        model, target = await self._found()
        if model is not self.model:
            trace.get_current_span().add_event(conventions.FALLBACK, {"model": model.name, "target": target.name})
        self.model = model
        self.number += 1
        self._tried.append(target)
        return target.begin(self._slot, model.canary, is_stream=question.is_stream)

    def arrived(self) -> None:
        """The attempt worked: what the retry cost is given back."""
        if self._drawn is not None:
            target, cost = self._drawn
            target.budget.earn(cost)

    def tell(self, error: ServiceError) -> None:
        error.headers[wire.ATTEMPTS] = str(self.number)
        error.headers[wire.SHOULD_RETRY] = "false"

    def wait_before_next(self, error: Exception) -> bool | float:
        """Seconds to the next attempt; False when there is to be none."""
        if not isinstance(error, AttemptFailedError) or self.number >= self.max_attempts:
            return False
        self._last_failure = error
        if error.error.code == TOO_LONG:  # another request in all but name: not one of the caller's attempts
            return self._turned_to_larger()
        self._timeouts += error.reason == "timeout"
        is_enough = self._timeouts >= MAX_TIMEOUTS or self.number >= self._callers_attempts
        return False if is_enough or not error.is_retryable else self._drawn_wait(error)

    def _drawn_wait(self, error: AttemptFailedError) -> bool | float:
        """The wait before a retry that has been paid for; False when the time or the budget does not allow it."""
        failed = self._tried[-1]
        wait_s = 0.0 if self._has_other() else self._wait_for_same(error)
        if wait_s is None or wait_s + LEAST_USEFUL_S + HOP_RESERVE_S > self._question.deadline.remaining_s():
            return False
        cost = failed.budget.draw(error.reason)
        if cost is None:
            trace.get_current_span().add_event(conventions.RETRY_BUDGET_EXHAUSTED, {"target": failed.name})
            return False
        self._drawn = (failed, cost)
        failed.retries[error.reason] += 1
        trace.get_current_span().add_event(conventions.RETRY, {"reason": error.reason, "wait_s": round(wait_s, 3)})
        return wait_s

    def _turned_to_larger(self) -> bool | float:
        larger = self.model.larger
        if larger is None or any(target in self._tried for target in self._served.find(larger).targets()):
            return False
        self._asked_for = self._served.find(larger)
        return 0.0

    def _wait_for_same(self, error: AttemptFailedError) -> float | None:
        wait_s = self._policy.uniform(0, min(BASE_WAIT_S * 2 ** (self.number - 1), LONGEST_WAIT_S))
        if error.retry_after_s is None:
            return wait_s
        return None if error.retry_after_s > LONGEST_RETRY_AFTER_S else max(wait_s, error.retry_after_s)

    def _has_other(self) -> bool:
        return any(target.is_well for _, targets in self._tiers() for target in targets)

    def _tiers(self) -> Iterator[tuple[ServedModel, Sequence[Target]]]:
        """Targets that have not been tried, in the order in which they may be: the model's own, then its fallbacks'."""
        tenant = self._question.identity.tenant
        for model in (self._asked_for, *(self._served.find(name) for name in self._asked_for.fallback)):
            yield model, self._untried(model.targets_for(tenant))
            if model.on_trial in self._tried:
                yield model, self._untried(model.stable)

    def _untried(self, targets: Sequence[Target]) -> list[Target]:
        body = self._question.body
        return [target for target in targets if target not in self._tried and target.is_able(body)]

    async def _found(self) -> tuple[ServedModel, Target]:
        """The target of the next attempt; `_slot` is taken there."""
        was_saturated = was_throttled = False
        for model, targets in self._tiers():
            well = [target for target in targets if target.is_well]
            if not well:
                continue
            found, throttled = self._at_once(well)
            if found is None and not throttled and not was_saturated:
                found = await self._after_waiting(choose(well, self._policy.random))
            if found is not None:
                return model, found
            was_throttled, was_saturated = was_throttled or throttled, was_saturated or not throttled
        if was_saturated or was_throttled:
            self._give_up(is_throttled=not was_saturated)
        return await self._last_resort()

    def _give_up(self, *, is_throttled: bool) -> NoReturn:
        """Nobody can be asked: what the last attempt failed with says more than that."""
        if self._last_failure is not None:
            raise self._last_failure.error from self._last_failure
        if is_throttled:
            raise Throttled("The model's upstream refuses most calls; this one was not sent.")
        raise Saturated("The model has as many calls as it can take.")

    async def _last_resort(self) -> tuple[ServedModel, Target]:
        """All are ejected, at rest or tried: one is asked all the same. A model is never left without any target."""
        all_ = dict.fromkeys((*self._asked_for.targets_for(self._question.identity.tenant), *self._asked_for.stable))
        rests = {target: max(target.rests_for_s, 0.0) for target in all_ if target.is_able(self._question.body)}
        able = [target for target, rest_s in rests.items() if rest_s == min(rests.values())]
        found, throttled = self._at_once(able)
        if throttled:
            self._give_up(is_throttled=True)
        if found is None:
            found = await self._after_waiting(choose(able, self._policy.random))
        if found is None:
            self._give_up(is_throttled=False)
        return self._asked_for, found

    def _at_once(self, targets: Sequence[Target]) -> tuple[Target | None, bool]:
        """A target with a free slot, or None and whether the throttle of any was the reason."""
        left, was_throttled = list(targets), False
        while left:
            target = choose(left, self._policy.random)
            left.remove(target)
            slot = target.concurrency.take(self._question.identity.priority)
            if slot is None:
                continue
            if target.throttle.admits():
                self._slot = slot
                return target, False
            target.concurrency.release()
            was_throttled = True
        return None, was_throttled

    async def _after_waiting(self, target: Target) -> Target | None:
        since = self._policy.clock()
        wait_s = min(WAIT_S, self._question.deadline.budget_s())
        try:
            slot = await target.concurrency.acquire(self._question.identity.priority, wait_s)
        except SaturatedError as error:
            if error.reason == "wait":
                target.waited_in_vain(since)
            return None
        if target.throttle.admits():
            self._slot = slot
            return target
        target.concurrency.release()
        return None

    def _over(self, question: Question) -> str:
        names = ("max_completion_tokens", "max_tokens", "n")
        return next((name for name in names if isinstance(question.body.get(name), int)), "max_tokens")
