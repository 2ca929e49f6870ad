from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.deadline import Deadline
from common.errors import DeadlineExceeded, InvalidRequest, RateLimited, ServiceError, Unavailable, UpstreamFailed
from inference.errors import AttemptFailedError
from inference.router import BASE_WAIT_S, LONGEST_WAIT_S, Router
from inference.targets import Policy, Target
from support.catalogue import ONE_TARGET, question, served
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable


def failure(reason: str = "status_503", retry_after_s: float | None = None) -> AttemptFailedError:
    return AttemptFailedError(Unavailable("away"), reason, is_retryable=True, retry_after_s=retry_after_s)


class Run:
    """One request: its attempts fail as told, then succeed. The waits that were drawn are noted, and are no waits."""

    def __init__(
        self, *failures: Exception, remaining_s: float = 60, max_attempts: int = 3, models: str = ONE_TARGET
    ) -> None:
        self.failures = list(failures)
        self.deadline = Deadline.after(remaining_s, Clock())
        self.max_attempts = max_attempts
        self.attempts: list[int] = []
        self.drawn: list[tuple[float, float]] = []
        self.models = models

    async def attempt(self, _: Target, number: int) -> str:
        self.attempts.append(number)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    def no_wait(self, least: float, most: float) -> float:
        self.drawn.append((least, most))
        return 0.0

    async def __call__(self, uniform: Callable[[float, float], float] | None = None) -> str:
        policy = Policy(uniform=uniform or self.no_wait)
        router = Router(served(self.models, policy), policy, max_attempts=self.max_attempts)
        return await router.run(question(deadline=self.deadline), self.attempt)

    async def fails(self) -> ServiceError:
        with pytest.raises(ServiceError) as failed:
            await self()
        return failed.value


async def test_an_answer_is_not_tried_again() -> None:
    run = Run()
    assert await run() == "answer"
    assert run.attempts == [1]


async def test_what_fails_twice_is_answered_by_the_third_attempt() -> None:
    run = Run(failure(), failure())
    assert await run() == "answer"
    assert run.attempts == [1, 2, 3]


async def test_nothing_is_attempted_a_fourth_time_and_nobody_else_should_retry() -> None:
    run = Run(*[failure() for _ in range(9)])
    error = await run.fails()
    assert run.attempts == [1, 2, 3]
    assert error.status == 503
    assert (error.headers["x-upstream-attempts"], error.headers["x-should-retry"]) == ("3", "false")


@pytest.mark.parametrize("max_attempts", [1, 2])
async def test_fewer_attempts_can_be_asked_for(max_attempts: int) -> None:
    run = Run(*[failure() for _ in range(9)], max_attempts=max_attempts)
    await run.fails()
    assert run.attempts == list(range(1, max_attempts + 1))


async def test_waits_are_full_jitter_and_double() -> None:
    run = Run(failure(), failure())
    await run()
    assert run.drawn == [(0, BASE_WAIT_S), (0, 2 * BASE_WAIT_S)]
    assert 2 * BASE_WAIT_S < LONGEST_WAIT_S


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_the_caller_has_to_mend_is_never_tried_again(status: int) -> None:
    told = InvalidRequest("no")
    told.status = status
    run = Run(AttemptFailedError(told, f"status_{status}"))
    error = await run.fails()
    assert run.attempts == [1]
    assert (error.status, error.headers["x-upstream-attempts"], error.headers["x-should-retry"]) == (
        status,
        "1",
        "false",
    )


async def test_a_call_that_timed_out_is_tried_once_more_only() -> None:
    run = Run(*[failure("timeout") for _ in range(9)])
    await run.fails()
    assert run.attempts == [1, 2]


async def test_a_timeout_after_another_failure_may_be_tried_again() -> None:
    run = Run(failure(), failure("timeout"))
    assert await run() == "answer"


async def test_retry_after_is_honoured_when_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    real, here = asyncio.sleep, threading.get_ident()

    async def sleep(seconds: float, *_: object) -> None:
        if threading.get_ident() != here:
            await real(seconds)  # a server of another test, in its own thread
            return
        slept.append(seconds)

    run = Run(failure(retry_after_s=7), failure(retry_after_s=0))
    monkeypatch.setattr(asyncio, "sleep", sleep)  # the standard library's: nobody waits seven seconds
    assert await run() == "answer"
    assert slept == [7, 0]


@pytest.mark.parametrize("retry_after_s", [9.8, 60, 99_999])
async def test_a_retry_after_that_outlives_the_caller_is_given_up(retry_after_s: float) -> None:
    run = Run(
        AttemptFailedError(RateLimited("busy"), "status_429", is_retryable=True, retry_after_s=retry_after_s),
        remaining_s=10,
    )
    error = await run.fails()
    assert run.attempts == [1]
    assert (error.status, error.headers["x-should-retry"]) == (429, "false")


async def test_no_attempt_is_waited_for_past_the_deadline() -> None:
    run = Run(failure(), remaining_s=0.45)
    with pytest.raises(Unavailable):
        await run(lambda _, most: most)
    assert run.attempts == [1]


async def test_a_deadline_that_passes_between_attempts_is_told_as_it_is() -> None:
    run = Run(failure(), DeadlineExceeded("too late to start"))
    assert (await run.fails()).status == 504
    assert run.attempts == [1, 2]


async def test_what_is_no_failure_of_an_attempt_is_not_tried_again() -> None:
    run = Run(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await run()
    assert run.attempts == [1]


async def test_the_last_failure_is_the_one_that_is_told() -> None:
    last = AttemptFailedError(UpstreamFailed("broken", code="upstream_broken"), "broken", is_retryable=True)
    assert (await Run(failure(), failure("connect"), last).fails()).code == "upstream_broken"


@pytest.mark.parametrize(("failures", "retries"), [(0, 0), (2, 2), (9, 2)])
async def test_a_span_has_an_event_for_each_retry_and_no_more(failures: int, retries: int) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("chat") as span:
        await asyncio.gather(Run(*[failure() for _ in range(failures)])(), return_exceptions=True)
    assert trace.get_current_span() is not span
    (finished,) = exporter.get_finished_spans()
    assert [event.name for event in finished.events] == ["retry"] * retries
