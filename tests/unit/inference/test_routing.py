"""Which target gets a question, over several targets and models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import InvalidRequest, RateLimited, ServiceError, Unavailable, UpstreamFailed
from common.identity import HopIdentity
from inference.breaker import FIRST_REST_S, LEAST_SAMPLES
from inference.errors import AttemptFailedError
from inference.router import Router
from inference.served_models import ModelNotFound
from inference.targets import LONGEST_REST_S, Policy, Target
from support.catalogue import MODEL, model, models_yaml, question, served, target
from support.clock import Clock

if TYPE_CHECKING:
    from inference.questions import Question

TWO = models_yaml(model(target("a"), target("b")))
FAMILY = models_yaml(
    model(target("a"), fallback="[other]", larger="big"),
    model(target("o"), name="other", fallback="[last]"),
    model(target("l"), name="last"),
    model(target("g"), name="big"),
)
BOUND_S = 5


def failure(status: int = 503, *, retry_after_s: float | None = None) -> AttemptFailedError:
    error: ServiceError = RateLimited("slow") if status == 429 else Unavailable("away")
    return AttemptFailedError(error, f"status_{status}", is_retryable=True, retry_after_s=retry_after_s)


def refusal(code: str) -> AttemptFailedError:
    return AttemptFailedError(InvalidRequest("no", code=code), "status_400")


class Platform:
    """A router over a catalogue; `broken` says how a target's every call fails."""

    def __init__(self, text: str, **policy: Any) -> None:
        self.clock = Clock()
        self.policy = Policy(clock=self.clock, uniform=lambda least, _: least, **policy)
        self.router = Router(served(text, self.policy), self.policy, max_attempts=3)
        self.broken: dict[str, AttemptFailedError] = {}
        self.asked: list[str] = []

    async def attempt(self, one: Target, _: int) -> str:
        self.asked.append(one.name)
        if (failed := self.broken.get(one.name)) is not None:
            raise AttemptFailedError(failed.error, failed.reason, failed.is_retryable, failed.retry_after_s)
        return one.name

    async def asks(self, one: Question | None = None) -> str:
        """The name of the target that answered; the answer is over at once."""
        asked = one or question()
        try:
            return await self.router.run(asked, self.attempt)
        finally:
            asked.route.end()

    async def fails(self, one: Question | None = None) -> ServiceError:
        with pytest.raises(ServiceError) as failed:
            await self.asks(one)
        return failed.value

    def target(self, name: str) -> Target:
        return next(one for one in self.router.served.targets() if one.name == name)

    async def eject(self, name: str) -> None:
        breaker = self.target(name).breaker
        for _ in range(LEAST_SAMPLES):
            breaker.failed("status_503", is_probe=False)
        assert breaker.is_open


async def test_the_next_attempt_goes_to_another_target_at_once() -> None:
    platform = Platform(TWO)
    platform.broken["a"] = failure()
    for _ in range(20):
        assert await platform.asks() == "b"
    assert set(platform.asked) == {"a", "b"}
    assert platform.router.attempts <= 3 * platform.router.requests


async def test_after_the_models_own_targets_come_the_models_that_it_names() -> None:
    platform = Platform(FAMILY)
    platform.broken["a"] = failure()
    asked = question()
    assert await platform.asks(asked) == "o"
    assert (asked.route.model, asked.route.target, asked.route.attempts) == ("other", "o", 2)
    assert platform.router.fallbacks == {("sim-small", "other"): 1}


async def test_the_fallbacks_of_a_fallback_are_not_asked_and_three_attempts_are_all() -> None:
    platform = Platform(FAMILY)
    platform.broken |= {"a": failure(), "o": failure()}
    error = await platform.fails()
    assert platform.asked == ["a", "o", "a"]
    assert (error.headers["x-upstream-attempts"], error.headers["x-should-retry"]) == ("3", "false")


@pytest.mark.parametrize("code", ["content_policy_violation", "content_filter", "invalid_value"])
async def test_a_refusal_of_the_content_is_the_answer(code: str) -> None:
    platform = Platform(FAMILY)
    platform.broken["a"] = refusal(code)
    assert (await platform.fails()).code == code
    assert platform.asked == ["a"]


async def test_a_prompt_that_is_too_long_goes_to_the_larger_model() -> None:
    platform = Platform(FAMILY)
    platform.broken["a"] = refusal("context_length_exceeded")
    asked = question()
    assert await platform.asks(asked) == "g"
    assert asked.route.model == "big"
    platform.broken["g"] = refusal("context_length_exceeded")
    platform.asked.clear()
    assert (await platform.fails()).code == "context_length_exceeded"
    assert platform.asked == ["a", "g"]


async def test_a_prompt_that_is_too_long_for_a_model_without_a_larger_one_is_asked_once() -> None:
    platform = Platform(TWO)
    platform.broken |= dict.fromkeys("ab", refusal("context_length_exceeded"))
    await platform.fails()
    assert len(platform.asked) == 1


async def test_a_job_s_replay_is_one_attempt_over_all_targets() -> None:
    platform = Platform(TWO)
    platform.broken |= dict.fromkeys("ab", failure())
    error = await platform.fails(question(max_attempts=1))
    assert (len(platform.asked), error.headers["x-upstream-attempts"]) == (1, "1")


async def test_the_larger_model_takes_a_job_s_replay_too() -> None:
    platform = Platform(FAMILY)
    platform.broken["a"] = refusal("context_length_exceeded")
    assert await platform.asks(question(max_attempts=1)) == "g"
    platform.broken["g"] = failure()
    await platform.fails(question(max_attempts=1))
    assert platform.asked == ["a", "g", "a", "g"]


async def test_an_unknown_model_is_the_same_404_whatever_it_is_called() -> None:
    platform = Platform(TWO)
    told = []
    for name in ("unknown", "../../etc", "", "sim-small ", "\x00", "m" * 10_000):
        with pytest.raises(ModelNotFound) as refused:
            await platform.router.run(question(name), platform.attempt)
        told.append((refused.value.status, refused.value.code, refused.value.body()))
    assert len(set(told)) == 1
    assert told[0][:2] == (404, "model_not_found")
    assert platform.asked == []


async def test_an_ejected_target_gets_nothing_until_its_probe() -> None:
    platform = Platform(TWO)
    await platform.eject("a")
    assert {await platform.asks() for _ in range(50)} == {"b"}
    platform.clock.advance(FIRST_REST_S * 2)
    assert "a" in {await platform.asks() for _ in range(50)}
    assert not platform.target("a").breaker.is_open


async def test_the_last_target_is_never_ejected() -> None:
    platform = Platform(models_yaml(model(target("a"))))
    await platform.eject("a")
    assert await platform.asks() == "a"
    two = Platform(TWO)
    await two.eject("a")
    await two.eject("b")
    assert {await two.asks() for _ in range(50)} == {"a", "b"}


async def test_an_ejected_model_falls_back_without_being_asked() -> None:
    platform = Platform(FAMILY)
    await platform.eject("a")
    assert await platform.asks() == "o"
    assert platform.asked == ["o"]


async def test_a_429_trips_no_breaker_but_its_retry_after_rests_the_target() -> None:
    platform = Platform(TWO, throttle_ratio=1_000)
    platform.broken["a"] = failure(429)
    for _ in range(50):
        assert await platform.asks() == "b"
    assert not platform.target("a").breaker.is_open
    platform.broken["a"] = failure(429, retry_after_s=7)
    platform.asked.clear()
    while platform.asked[-2:] != ["a", "b"]:
        await platform.asks()
    platform.asked.clear()
    for _ in range(50):
        await platform.asks()
    assert set(platform.asked) == {"b"}
    platform.clock.advance(7)
    del platform.broken["a"]
    assert {await platform.asks() for _ in range(50)} == {"a", "b"}


async def test_no_retry_after_rests_a_target_for_longer_than_a_minute() -> None:
    platform = Platform(TWO)
    platform.target("a").rest(99_999)
    platform.clock.advance(LONGEST_REST_S)
    assert platform.target("a").is_well


async def test_when_all_are_at_rest_the_one_that_rests_least_is_asked() -> None:
    platform = Platform(TWO)
    platform.target("a").rest(30)
    platform.target("b").rest(5)
    assert {await platform.asks() for _ in range(20)} == {"b"}


async def test_a_target_gets_no_request_that_is_beyond_its_caps() -> None:
    caps = "{max_output_tokens: 10, choices: 1}"
    platform = Platform(models_yaml(model(target("a", caps=caps, weight=1000), target("b"))))
    assert {await platform.asks(question(body={"max_tokens": 11})) for _ in range(20)} == {"b"}
    assert {await platform.asks(question(body={"n": 2})) for _ in range(20)} == {"b"}
    assert "a" in {await platform.asks(question(body={"max_completion_tokens": 10})) for _ in range(20)}
    alone = Platform(models_yaml(model(target("a", caps=caps))))
    error = await alone.fails(question(body={"max_completion_tokens": 11}))
    assert (error.status, error.param, alone.asked) == (400, "max_completion_tokens", [])


async def test_failures_everywhere_cost_ten_retries_and_then_none() -> None:
    platform = Platform(models_yaml(model(target("a"))), throttle_ratio=1_000_000)
    platform.broken["a"] = failure()
    for _ in range(100):
        await platform.fails()
    assert platform.router.attempts == 110
    assert platform.target("a").budget.exhausted == 95


async def test_retries_that_work_are_never_refused() -> None:
    platform = Platform(TWO)
    for _ in range(200):
        platform.broken = {"a": AttemptFailedError(UpstreamFailed("x"), "broken", is_retryable=True)}
        assert await platform.asks() == "b"
        platform.target("a").breaker._samples.clear()  # what an ejection would hide
    assert platform.target("a").budget.exhausted == 0


async def test_a_throttled_target_is_not_asked_and_the_caller_is_told_to_come_back() -> None:
    platform = Platform(models_yaml(model(target("a"))), random=lambda: 0.0)
    platform.broken["a"] = failure()
    for _ in range(30):
        await platform.fails()
    asked = len(platform.asked)
    error = await platform.fails()
    assert (error.status, error.code, error.headers["retry-after"]) == (503, "upstream_throttled", "1")
    assert len(platform.asked) == asked
    assert platform.target("a").concurrency.in_flight == 0


async def test_a_saturated_model_is_a_503_with_retry_after_and_says_so_within_the_wait() -> None:
    platform = Platform(models_yaml(model(target("a", max_concurrency=4))))
    held = [question() for _ in range(4)]
    for one in held:
        await platform.router.run(one, platform.attempt)
    waiting = [asyncio.create_task(platform.fails()) for _ in range(5)]
    told = await asyncio.wait_for(asyncio.gather(*waiting), BOUND_S)
    assert {(error.status, error.code, error.headers["retry-after"]) for error in told} == {
        (503, "upstream_saturated", "1")
    }
    assert len(platform.asked) == 4
    for one in held:
        one.route.end()
        one.route.end()
    assert platform.target("a").concurrency.in_flight == 0
    assert await platform.asks() == "a"


async def test_a_saturated_model_falls_back_if_it_names_another() -> None:
    text = models_yaml(model(target("a", max_concurrency=1), fallback="[other]"), model(target("o"), name="other"))
    platform = Platform(text)
    held = question()
    await platform.router.run(held, platform.attempt)
    assert await asyncio.wait_for(platform.asks(), BOUND_S) == "o"
    held.route.end()


async def test_batch_work_leaves_room_for_those_who_wait_in_front_of_a_screen() -> None:
    platform = Platform(models_yaml(model(target("a", max_concurrency=10))))
    held = [question(identity=HopIdentity("t", "k", "batch")) for _ in range(8)]
    for one in held:
        await platform.router.run(one, platform.attempt)
    error = await asyncio.wait_for(platform.fails(question(identity=HopIdentity("t", "k", "batch"))), BOUND_S)
    assert error.code == "upstream_saturated"
    assert await platform.asks() == "a"


async def test_a_target_that_hangs_is_ejected_by_those_who_wait_for_a_slot_in_vain() -> None:
    platform = Platform(models_yaml(model(target("a", max_concurrency=1), target("b", max_concurrency=1))))
    for _ in range(LEAST_SAMPLES):
        platform.target("a").waited_in_vain(platform.clock() + 1)
    assert platform.target("a").breaker.is_open
    platform.target("b").sign_of_life()
    for _ in range(LEAST_SAMPLES):
        platform.target("b").waited_in_vain(platform.clock() - 1)
    assert not platform.target("b").breaker.is_open, "a target that answers meanwhile is busy, not broken"


async def test_a_refused_call_takes_of_the_targets_concurrency_and_gives_its_slot_back() -> None:
    platform = Platform(models_yaml(model(target("a"))), throttle_ratio=1_000_000)
    before = platform.target("a").concurrency.limit
    platform.broken["a"] = failure(429)
    await platform.fails()
    after = platform.target("a").concurrency
    assert after.limit < before
    assert after.in_flight == 0


async def test_a_caller_who_leaves_gives_the_slot_and_the_probe_back() -> None:
    platform = Platform(models_yaml(model(target("a"))))
    await platform.eject("a")
    platform.clock.advance(FIRST_REST_S * 2)
    started = asyncio.Event()

    async def hangs(_: Target, __: int) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    call = asyncio.create_task(platform.router.run(question(), hangs))
    await asyncio.wait_for(started.wait(), BOUND_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    one = platform.target("a")
    assert (one.concurrency.in_flight, one.breaker.admits) == (0, True)


async def test_a_stream_holds_its_slot_to_its_end_and_a_break_in_its_middle_counts() -> None:
    platform = Platform(models_yaml(model(target("a"))))
    stream = question(body={"stream": True})
    await platform.router.run(stream, platform.attempt)
    assert platform.target("a").concurrency.in_flight == 1
    stream.route.end(UpstreamFailed("cut", code="stream_interrupted"))
    assert platform.target("a").concurrency.in_flight == 0
    assert platform.target("a").failures == {"stream_interrupted": 1}


@pytest.mark.parametrize("code", ["client_gone", "client_stalled", "draining", "deadline_exceeded"])
async def test_what_the_caller_or_we_ended_is_no_fault_of_the_target(code: str) -> None:
    platform = Platform(models_yaml(model(target("a"))))
    stream = question(body={"stream": True})
    await platform.router.run(stream, platform.attempt)
    stream.route.end(Unavailable("over", code=code))
    assert platform.target("a").failures == {}


CANARY = models_yaml(
    model(target("old"), target("new"), canary="{target: new, percent: 20, min_requests: 20, window_s: 60}")
)


async def test_a_canary_that_turns_bad_is_rolled_back_and_its_tenants_are_served_by_the_others() -> None:
    platform = Platform(CANARY, throttle_ratio=1_000)
    tenants = [f"tenant-{number}" for number in range(100)]
    before = {tenant: await platform.asks(question(tenant=tenant)) for tenant in tenants}
    assert 5 < sum(name == "new" for name in before.values()) < 40
    assert before == {tenant: await platform.asks(question(tenant=tenant)) for tenant in tenants}
    platform.broken["new"] = AttemptFailedError(UpstreamFailed("x"), "status_500")
    failed = 0
    for _ in range(10):
        for tenant in tenants:
            platform.clock.advance(0.01)
            try:
                await platform.asks(question(tenant=tenant))
            except ServiceError:
                failed += 1
    assert 0 < failed < 30
    canary = platform.router.served.models[MODEL].canary
    assert canary is not None
    assert canary.rolled_back in ("errors", "ejected")
    assert {await platform.asks(question(tenant=tenant)) for tenant in tenants} == {"old"}


async def test_a_canary_that_cannot_be_reached_costs_its_tenants_a_retry_and_no_answer() -> None:
    platform = Platform(CANARY)
    platform.broken["new"] = AttemptFailedError(Unavailable("x"), "connect", is_retryable=True)
    for number in range(500):
        assert await platform.asks(question(tenant=f"tenant-{number}")) == "old"


async def test_a_reload_keeps_what_it_leaves_as_it_is() -> None:
    platform = Platform(CANARY)
    before = platform.router.served
    await platform.eject("old")
    canary = before.models[MODEL].canary
    assert canary is not None
    canary.ejected()
    text = CANARY + model(target("x"), name="another")
    after = served(text, platform.policy, before)
    assert after.models[MODEL].canary is canary
    assert after.models[MODEL].stable[0] is before.models[MODEL].stable[0]
    retried = served(CANARY.replace("percent: 20", "percent: 10"), platform.policy, before).models[MODEL]
    assert retried.canary is not None
    assert retried.canary.rolled_back is None
    assert retried.stable[0].breaker.is_open
    moved = served(CANARY.replace("http://old", "http://elsewhere"), platform.policy, before).models[MODEL]
    assert not moved.stable[0].breaker.is_open
