"""Identical calls in flight together, over three gateways, cost one upstream call, whatever becomes of the leader."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from cache import names
from cache.gateways import GONE_AFTER_MS, REMEMBERED_MS
from support.cache_process import cache_process
from support.chaos import chance, times
from support.crowd import Crowd, Seen, crowd, upstream_calls
from support.platform import BOUND_S, Platform, chat
from support.replicas import Replica, replicas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from support.valkey import Valkey

pytestmark = [pytest.mark.chaos, pytest.mark.measured]
CALLERS = times(90, 500)
TAKEN_OVER_WITHIN_S = 1.0
"""From the death of the leader's process to the next call at the upstream."""
DEATHS = times(3, 30)
LAST_DEATH_S = 0.6
"""After the lease was granted: before, while and after the leader begins to attend it (0.25 s)."""
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

    def gateways(self) -> int:
        """How many are noted to be there."""
        fresh_ms = REMEMBERED_MS - GONE_AFTER_MS
        return sum(int(self._client.pttl(name)) > fresh_ms for name in self._client.keys(names.gateway("*")))

    def sees(self, gateways: int) -> bool:
        return self.gateways() >= gateways

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
    prompt += f" {leader_streams} [[sim ttft_ms=1500 tokens=10]]"
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


class Death:
    """A leader dies while others wait for its answer."""

    def __init__(self, stack: Platform, callers: Crowd, store: Store) -> None:
        self.stack = stack
        self._callers = callers
        self._store = store

    async def warm_up(self, follower: Replica) -> None:
        """Let it load what its first request needs."""
        assert (await self._callers.ask(follower.url, chat("Wake up."))).status == 200

    async def of(
        self, leader: Replica, prompt: str, followers: list[str], *, after_s: float, kills: Callable[[], None]
    ) -> float:
        """Kill it so long after its lease was granted; how long the upstream then waited for the next call."""
        prompt += " [[sim ttft_ms=2000 tokens=10]]"
        body, leases, follows = chat(prompt, stream=True), self._store.leases(), self._store.follows()
        leading = asyncio.create_task(self._callers.ask(leader.url, body))
        await until(lambda: self._store.leases() - leases)
        granted_at = time.monotonic()
        following = [asyncio.create_task(self._callers.ask(url, body)) for url in followers]
        if after_s:
            await until(lambda: self._store.follows() >= follows + len(set(followers)))
            await asyncio.sleep(granted_at + after_s - time.monotonic())
        killed_at = time.monotonic()
        await asyncio.to_thread(kills)
        seen = await asyncio.gather(*following)
        assert not (await leading).is_whole
        assert [one.status for one in seen] == [200] * len(seen)
        assert all(one.is_whole and one.body.endswith(DONE) for one in seen)
        assert len({one.body for one in seen}) == 1
        calls = upstream_calls(self.stack, prompt)
        assert len(calls) <= 2
        return float(calls[-1]["received"]) - killed_at


@pytest.fixture
def death(stack: Platform, callers: Crowd, store: Store) -> Death:
    return Death(stack, callers, store)


@pytest.mark.timeout(DEATHS * 10 + 60)
async def test_a_leader_that_is_killed_at_any_moment_is_replaced_within_a_second_and_costs_one_more_call(
    gateways: list[Replica], death: Death, prompt: str
) -> None:
    moment = chance()
    await asyncio.gather(*(death.warm_up(gateway) for gateway in gateways[:2]))
    took: dict[float, float] = {}
    for first in range(0, DEATHS, 3):
        with replicas(death.stack, 3) as mortal:
            for number, leader in enumerate(mortal, first):
                after_s = moment.uniform(0, LAST_DEATH_S) if number else 0
                crowd_of = CALLERS // 3 if number else 4  # who dies at once dies while these arrive
                followers = [gateways[n % 2].url for n in range(crowd_of)]
                took[after_s] = await death.of(
                    leader, f"{prompt} {number}", followers, after_s=after_s, kills=leader.kill
                )
    print("killed after, replaced after:", *(f"{at * 1000:.0f} ms: {s * 1000:.0f} ms" for at, s in took.items()))  # noqa: T201  # the figures of a chaos run
    assert max(took.values()) < TAKEN_OVER_WITHIN_S


async def test_a_leader_is_replaced_within_a_second_also_if_its_cache_stands_still_or_dies_with_it(
    gateways: list[Replica], death: Death, store: Store, cache_store: Valkey, prompt: str
) -> None:
    elsewhere = [gateways[0].url] * 2  # whose cache is another replica, over the same store
    took = {}
    with (
        cache_process(CACHE_STORE_URL=cache_store.url) as doomed,
        replicas(death.stack, 3, cache_url=doomed.url) as (one, two, three),
        replicas(death.stack, 1, cache_url=doomed.url, cache_timeout_s=0.1) as (other,),
    ):

        def freeze_and_kill(leader: Replica) -> None:
            doomed.process.send_signal(signal.SIGSTOP)
            leader.kill()

        def kill_both(leader: Replica) -> None:
            doomed.process.kill()
            leader.kill()

        await death.warm_up(other)
        there = await asyncio.to_thread(store.gateways)
        for number, (name, leader, followers, kill) in enumerate(
            (
                ("the leader's cache stands still", one, elsewhere, freeze_and_kill),
                ("the only cache stands still", two, [other.url] * 2, freeze_and_kill),
                ("the only cache dies", three, [other.url] * 2, kill_both),
            )
        ):
            await until(functools.partial(store.sees, there - number))  # again, after the cache stood still
            kills = functools.partial(kill, leader)
            took[name] = await death.of(leader, f"{prompt} {name}", followers, after_s=0.3, kills=kills)
            doomed.process.send_signal(signal.SIGCONT)
    print(took)  # noqa: T201  # the figures of a chaos run
    assert max(took.values()) < TAKEN_OVER_WITHIN_S


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
