"""The platform's one retry policy: at most three attempts per request, before the first byte only.

Waits are full jitter, 0.2 s doubling to 2 s, or the upstream's `Retry-After` if it is at most 10 s and still fits
the caller's deadline.
Source: https://sre.google/sre-book/handling-overload/ and the AWS note on exponential backoff and jitter.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

import stamina
from opentelemetry import trace

from common import wire
from common.deadline import HOP_RESERVE_S, LEAST_USEFUL_S
from inference.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.deadline import Deadline

BASE_WAIT_S = 0.2
LONGEST_WAIT_S = 2.0
LONGEST_RETRY_AFTER_S = 10.0
"""An upstream that wants to be left alone for longer is not waited for: the caller is told, and decides."""
MAX_TIMEOUTS = 2
"""A call that timed out is tried once more: it may still be running at the upstream."""

AnswerT = TypeVar("AnswerT")


async def with_retries(
    attempt_once: Callable[[int], Awaitable[AnswerT]],
    *,
    deadline: Deadline,
    max_attempts: int,
    uniform: Callable[[float, float], float] = random.uniform,
) -> AnswerT:
    """Run `attempt_once(number)` until it succeeds, may not be repeated, or would outlive the deadline.

    Raises the last attempt's `ServiceError`, with the number of attempts and, since nobody should retry what we have
    retried already, `x-should-retry: false`.
    """
    number = 0
    timeouts = 0

    def wait_before_next(error: Exception) -> bool | float:
        nonlocal timeouts
        if not isinstance(error, AttemptFailedError) or not error.is_retryable or number >= max_attempts:
            return False
        timeouts += error.reason == "timeout"
        wait_s = uniform(0, min(BASE_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S))
        if error.retry_after_s is not None:
            if error.retry_after_s > LONGEST_RETRY_AFTER_S:
                return False
            wait_s = max(wait_s, error.retry_after_s)
        if timeouts >= MAX_TIMEOUTS or wait_s + LEAST_USEFUL_S + HOP_RESERVE_S > deadline.remaining_s():
            return False
        trace.get_current_span().add_event("retry", {"reason": error.reason, "wait_s": round(wait_s, 3)})
        return wait_s

    try:
        async for attempt in stamina.retry_context(on=wait_before_next, attempts=max_attempts, timeout=None):
            with attempt:
                number = attempt.num
                return await attempt_once(number)
    except AttemptFailedError as failed:
        failed.error.headers[wire.ATTEMPTS] = str(number)
        failed.error.headers[wire.SHOULD_RETRY] = "false"
        raise failed.error from failed
    raise AssertionError("unreachable")
