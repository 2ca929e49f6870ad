"""Identical calls in flight together, over three gateways, cost one upstream call, whatever becomes of the leader."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from cache import names
from support.chaos import times
from support.crowd import Crowd, Seen, crowd, upstream_calls
from support.platform import BOUND_S, Platform, chat
from support.replicas import Replica, replicas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from support.valkey import Valkey

pytestmark = [pytest.mark.chaos, pytest.mark.measured]
CALLERS = times(90, 500)
TAKEN_OVER_WITHIN_S = 5.0 + 1.0
"""The lease, should the leader die between two attendances, and a second. Mostly it is milliseconds."""
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def gateways(stack: Platform) -> Iterator[list[Replica]]:
    with replicas(stack, 3) as started:
        yield started


@pytest.fixture
async def callers(stack: Platform) -> AsyncIterator[Crowd]:
    async with crowd(stack.key) as opened:
        yield opened


async def begun(seen: Seen) -> Seen:
    async with asyncio.timeout(BOUND_S):
        await seen.began.wait()
    return seen


async def asked(stack: Platform, prompt: str) -> None:
    """Return once the upstream has been asked."""
    async with asyncio.timeout(BOUND_S):
        while not await asyncio.to_thread(upstream_calls, stack, prompt):
            pass


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not await asyncio.to_thread(is_so):
            pass


class Store:
    """What the cache's store knows of flights."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url)

    def follows(self) -> int:
        """How often somebody was told to follow, so far."""
        return int(self._client.hget(names.counters("alice"), "follows") or 0)

    def leases(self) -> set[bytes]:
        """When the leases that are held end; another moment each time that one is renewed."""
        found = [
            self._client.hmget(name, "until", "ended") for name in self._client.keys(names.flight("alice", "*", "")[0])
        ]
        return {until for until, ended in found if not ended}  # type: ignore[misc]  # not awaitable: the client is the synchronous one


@pytest.fixture(scope="module")
def store(cache_store: Valkey) -> Store:
    return Store(cache_store.url)


async def test_identical_streams_over_three_gateways_are_one_upstream_call_and_the_same_to_the_last_byte(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=700 itl_ms=30 tokens=30]]"
    body = chat(prompt, stream=True)
    seen = await asyncio.gather(*(callers.ask(gateways[n % 3].url, body) for n in range(CALLERS)))
    assert [one.status for one in seen] == [200] * CALLERS
    assert len(upstream_calls(stack, prompt)) == 1
    assert all(one.is_whole and one.body.endswith(DONE) for one in seen)
    assert len({one.body for one in seen}) == 1
    outcomes = sorted(one.cache for one in seen)
    assert outcomes.count("miss") == 1
    assert set(outcomes) <= {"miss", "coalesced", "hit"}


async def test_those_who_come_in_mid_stream_get_what_was_sent_so_far_and_then_each_event_as_it_comes(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim itl_ms=60 tokens=40]]"
    first = Seen()
    leading = asyncio.create_task(callers.ask(gateways[0].url, chat(prompt, stream=True), first))
    await begun(first)
    others = [Seen() for _ in gateways]
    following = [
        asyncio.create_task(callers.ask(replica.url, chat(prompt, stream=True), seen))
        for replica, seen in zip(gateways, others, strict=True)
    ]
    for seen in others:
        await begun(seen)
        assert not leading.done()  # they did not wait for the end
    await asyncio.gather(leading, *following)
    assert {seen.body for seen in others} == {first.body}
    assert first.body.endswith(DONE)
    assert len(upstream_calls(stack, prompt)) == 1
    assert {seen.cache for seen in others} == {"coalesced"}


@pytest.mark.parametrize("leader_streams", [True, False])
async def test_streamed_and_whole_requests_share_one_call(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str, leader_streams: bool
) -> None:
    prompt += f" {leader_streams} [[sim ttft_ms=600 tokens=10]]"
    leading = asyncio.create_task(callers.ask(gateways[0].url, chat(prompt, stream=leader_streams)))
    await asked(stack, prompt)
    stream, whole = await asyncio.gather(
        callers.ask(gateways[1].url, chat(prompt, stream=True)), callers.ask(gateways[2].url, chat(prompt))
    )
    await leading
    assert len(upstream_calls(stack, prompt)) == 1
    assert (stream.status, stream.cache, stream.body.endswith(DONE)) == (200, "coalesced", True)
    assert (whole.status, whole.cache) == (200, "coalesced")
    assert b'"usage":{' in whole.body
    assert b'"usage"' not in stream.body  # it did not ask for it


async def test_another_tenants_identical_request_is_a_call_of_its_own(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=500]]"
    mine, theirs = await asyncio.gather(
        callers.ask(gateways[0].url, chat(prompt)),
        callers.ask(gateways[1].url, chat(prompt), headers={"authorization": f"Bearer {stack.other_key}"}),
    )
    assert (mine.cache, theirs.cache) == ("miss", "miss")
    assert len(upstream_calls(stack, prompt)) == 2


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_leader_whose_client_leaves_goes_on_while_anybody_follows(  # noqa: PLR0913, PLR0917  # fixtures
    stack: Platform, gateways: list[Replica], callers: Crowd, store: Store, prompt: str, is_stream: bool
) -> None:
    followers = [n for n in range(CALLERS // 3) if n % 3]  # on other replicas only: the leader's has nobody left
    prompt += f" {is_stream} [[sim ttft_ms=300 itl_ms=40 tokens=30]]"
    body = chat(prompt, stream=is_stream)
    follows = store.follows()
    leading = asyncio.create_task(callers.ask(gateways[0].url, body))
    await asked(stack, prompt)
    following = [asyncio.create_task(callers.ask(gateways[n % 3].url, body)) for n in followers]
    await until(lambda: store.follows() >= follows + 2)
    leading.cancel()
    seen = await asyncio.gather(*following)
    assert len(upstream_calls(stack, prompt)) == 1
    assert all((one.status, one.is_whole) == (200, True) for one in seen)
    assert len({one.body for one in seen}) == 1


@pytest.mark.parametrize("is_followed", [True, False])
async def test_when_the_last_who_waits_has_left_the_call_is_cancelled_within_half_a_second(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str, is_followed: bool
) -> None:
    prompt += f" {is_followed} [[sim itl_ms=50 tokens=10000]]"
    body = chat(prompt, stream=True)
    first, second = Seen(), Seen()
    waiting = [asyncio.create_task(callers.ask(gateways[0].url, body, first))]
    await begun(first)
    if is_followed:
        waiting.append(asyncio.create_task(callers.ask(gateways[1].url, body, second)))
        await begun(second)
    for one in waiting:
        (attempt,) = upstream_calls(stack, prompt)
        assert attempt["cancelled"] is None
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
    chunks = upstream_calls(stack, prompt)[0]["chunks"]
    await until(lambda: upstream_calls(stack, prompt)[0]["cancelled"])
    assert upstream_calls(stack, prompt)[0]["chunks"] - chunks <= 10  # of 50 ms each


async def test_a_leader_that_is_killed_costs_one_more_call_and_no_follower_that_had_sent_nothing(
    stack: Platform, callers: Crowd, store: Store, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=2000 tokens=10]]"
    follows = store.follows()
    body = chat(prompt, stream=True)
    with replicas(stack, 3) as mortal:
        leading = asyncio.create_task(callers.ask(mortal[0].url, body))
        await asked(stack, prompt)
        following = [asyncio.create_task(callers.ask(mortal[1 + n % 2].url, body)) for n in range(CALLERS // 3)]
        await until(lambda: store.follows() >= follows + 2)
        granted = store.leases()
        await until(lambda: not granted & store.leases())  # the leader attends: the cache will see it die
        killed_at = time.monotonic()
        await asyncio.to_thread(mortal[0].kill)
        seen = await asyncio.gather(*following)
        assert not (await leading).is_whole
    assert [one.status for one in seen] == [200] * len(seen)
    assert all(one.is_whole and one.body.endswith(DONE) for one in seen)
    assert len({one.body for one in seen}) == 1
    _, second = upstream_calls(stack, prompt)
    assert second["received"] - killed_at < TAKEN_OVER_WITHIN_S


async def test_a_follower_that_had_sent_something_when_the_leader_was_killed_gets_the_error_event(
    stack: Platform, callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim itl_ms=50 tokens=200]]"
    first, second = Seen(), Seen()
    with replicas(stack, 2) as mortal:
        leading = asyncio.create_task(callers.ask(mortal[0].url, chat(prompt, stream=True), first))
        await begun(first)
        following = asyncio.create_task(callers.ask(mortal[1].url, chat(prompt, stream=True), second))
        whole = asyncio.create_task(callers.ask(mortal[1].url, chat(prompt)))
        await begun(second)
        await asyncio.to_thread(mortal[0].kill)
        await asyncio.gather(leading, following)
        answered = await whole  # it had sent nothing: somebody asks again for it
    assert (second.status, second.is_whole) == (200, False)
    assert b'data: {"error":' in second.body
    assert DONE not in second.body
    assert (answered.status, answered.is_whole) == (200, True)
    assert len(upstream_calls(stack, prompt)) == 2


@pytest.mark.parametrize("status", [500, 503])
async def test_a_failure_is_tried_once_more_and_then_shared_by_all(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str, status: int
) -> None:
    attempts_a_call = 3 if status == 503 else 1  # inference's own
    prompt += f" {status} [[sim ttft_ms=300 status={status}]]"
    seen = await asyncio.gather(*(callers.ask(gateways[n % 3].url, chat(prompt)) for n in range(CALLERS // 3)))
    assert {one.status for one in seen} == {502 if status == 500 else status}
    assert len(upstream_calls(stack, prompt)) == 2 * attempts_a_call
    assert all(b'"error"' in one.body for one in seen)


async def test_a_failure_that_the_second_call_mends_is_seen_by_its_own_caller_alone(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=300 status=500 times=1]]"
    seen = await asyncio.gather(*(callers.ask(gateways[n % 3].url, chat(prompt)) for n in range(CALLERS // 3)))
    assert sorted(one.status for one in seen) == [200] * (len(seen) - 1) + [502]
    assert len(upstream_calls(stack, prompt)) == 2


async def test_an_error_that_everybody_would_get_is_shared_at_once(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=500 status=422]]"
    seen = await asyncio.gather(*(callers.ask(gateways[n % 3].url, chat(prompt)) for n in range(CALLERS // 3)))
    assert {one.status for one in seen} == {422}
    assert len({one.body for one in seen}) == 1
    assert len(upstream_calls(stack, prompt)) == 1


async def test_a_follower_waits_no_longer_than_its_own_deadline(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str
) -> None:
    prompt += " [[sim ttft_ms=3000]]"
    leading = asyncio.create_task(callers.ask(gateways[0].url, chat(prompt)))
    await asked(stack, prompt)
    hurried = await callers.ask(gateways[1].url, chat(prompt), headers={"x-request-timeout-ms": "500"})
    assert (hurried.status, leading.done()) == (504, False)
    assert (await leading).status == 200
    assert len(upstream_calls(stack, prompt)) == 1


@pytest.mark.parametrize("hurry", [{"x-request-timeout-ms": "700"}, {"x-stainless-read-timeout": "0.7"}])
async def test_a_leader_in_a_hurry_fails_alone_and_those_with_time_get_their_answer(
    stack: Platform, gateways: list[Replica], callers: Crowd, prompt: str, hurry: dict[str, str]
) -> None:
    prompt += f" {hurry} [[sim ttft_ms=1200]]"
    leading = asyncio.create_task(callers.ask(gateways[0].url, chat(prompt), headers=hurry))
    await asked(stack, prompt)
    patient = await asyncio.gather(*(callers.ask(gateways[n % 3].url, chat(prompt)) for n in range(9)))
    assert (await leading).status == 504
    assert {one.status for one in patient} == {200}
    assert len(upstream_calls(stack, prompt)) == 2


@pytest.mark.parametrize("replica", [0, 1])
async def test_a_leader_in_a_hurry_cuts_nobody_elses_stream(
    gateways: list[Replica], callers: Crowd, prompt: str, replica: int
) -> None:
    prompt += f" {replica} [[sim ttft_ms=100 itl_ms=100 tokens=15]]"
    body = chat(prompt, stream=True)
    hurried = Seen()
    leading = asyncio.create_task(callers.ask(gateways[0].url, body, hurried, headers={"x-request-timeout-ms": "1000"}))
    await begun(hurried)
    patient = await callers.ask(gateways[replica].url, body)
    assert patient.body.endswith(DONE)
    assert not (await leading).body.endswith(DONE)
