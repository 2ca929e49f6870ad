"""More is asked of the platform than it can do: what it takes on is answered, and the rest is told when to return."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.platform import BOUND_S, Platform, chat, eventually, platform
from support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.valkey import Valkey

pytestmark = pytest.mark.measured
ROUTE = "/v1/chat/completions"
SLOTS = 4


@pytest.fixture(scope="module")
def small(state_store: Valkey, cache_store: Valkey) -> Iterator[Platform]:
    """A platform whose gateway has four calls under way at once, and two that wait."""
    with platform(state_store.url, cache_store.url, of_gateway={"max_concurrency": SLOTS}) as started:
        yield started


class Upstream:
    """What reaches the upstream from now on."""

    def __init__(self, stack: Platform) -> None:
        self._stack = stack
        self._before = (stack.last_attempt() or {"seq": 0})["seq"]

    def attempts(self) -> list[dict[str, Any]]:
        return [one for one in self._stack._attempts() if one["seq"] > self._before]

    async def are(self, count: int, mark: str) -> None:
        """Wait until so many attempts have it in their account."""
        await asyncio.to_thread(eventually, lambda: sum(one[mark] is not None for one in self.attempts()) >= count)


@dataclasses.dataclass
class Crowd:
    stack: Platform
    prompt: str
    key: str | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    async def ask(self, count: int, directive: str = "", **fields: Any) -> list[httpx2.Response]:
        authorization = {"authorization": f"Bearer {self.key or self.stack.key}"}
        async with httpx2.AsyncClient(
            headers=authorization | self.headers,
            timeout=BOUND_S,
            limits=httpx2.Limits(max_connections=count),
            trust_env=False,
        ) as http:
            url = self.stack.gateway + ROUTE
            prompts = [f"{self.prompt} {number} {directive}" for number in range(count)]
            return await asyncio.gather(*(http.post(url, json=chat(prompt, **fields)) for prompt in prompts))


async def test_what_does_not_fit_is_refused_with_when_to_return_and_the_rest_is_answered(
    small: Platform, prompt: str
) -> None:
    upstream = Upstream(small)
    answers = await Crowd(small, prompt).ask(40, "[[sim ttft_ms=1500]]")
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200] >= SLOTS
    assert counts[200] + counts[503] == 40
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "overloaded"
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-request-id"]
    assert len(upstream.attempts()) == counts[200]


async def test_a_hit_never_queues(small: Platform, prompt: str) -> None:
    with small.http() as http:
        eventually(lambda: http.post(ROUTE, json=chat(prompt)).headers["x-cache"] == "hit")
    upstream = Upstream(small)
    busy = asyncio.create_task(Crowd(small, f"{prompt} busy").ask(SLOTS, "[[sim ttft_ms=1500]]"))
    await upstream.are(SLOTS, "prompt")
    with small.http() as http:
        answer = await asyncio.to_thread(http.post, ROUTE, json=chat(prompt))
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "hit")
    assert {one.status_code for one in await busy} == {200}


async def test_a_quiet_tenant_is_served_while_a_noisy_one_fills_the_queue(small: Platform, prompt: str) -> None:
    upstream = Upstream(small)
    noisy = asyncio.create_task(Crowd(small, f"{prompt} noisy").ask(30, "[[sim ttft_ms=200]]"))
    await upstream.are(SLOTS, "prompt")
    (quiet,) = await Crowd(small, f"{prompt} quiet", small.other_key).ask(1)
    assert quiet.status_code == 200
    await noisy


@pytest.mark.parametrize("is_stream", [False, True])
async def test_every_slot_is_free_again_after_clients_that_left(small: Platform, prompt: str, is_stream: bool) -> None:
    for _ in range(3):
        upstream = Upstream(small)
        leaving = asyncio.create_task(
            Crowd(small, f"{prompt} leaving").ask(SLOTS, "[[sim ttft_ms=50 itl_ms=500]]", stream=is_stream)
        )
        await upstream.are(SLOTS, "prompt")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await upstream.are(SLOTS, "cancelled")
    answers = await Crowd(small, prompt).ask(SLOTS)
    assert [answer.status_code for answer in answers] == [200] * SLOTS


async def test_batch_gives_way_and_a_bad_priority_is_a_400(small: Platform, prompt: str) -> None:
    batch = Crowd(small, f"{prompt} batch", headers={"x-spillway-priority": "batch"})
    answers = await batch.ask(30, "[[sim ttft_ms=800]]")
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(429, "batch_overloaded")}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    (bad,) = await Crowd(small, prompt, headers={"x-spillway-priority": "urgent"}).ask(1)
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "x-spillway-priority")


def test_bodies_in_flight_are_bounded_before_any_is_read(state_store: Valkey, cache_store: Valkey, prompt: str) -> None:
    bounded = {"max_body_bytes_in_flight": 1024 * 1024}
    with platform(state_store.url, cache_store.url, of_gateway=bounded) as stack, stack.http() as http:
        with contextlib.closing(Wire(stack, chat("[[sim ttft_ms=60000]]" + "x" * 600_000))):
            eventually(stack.last_attempt)
            answer = http.post(ROUTE, json=chat("x" * 600_000))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert answer.headers["x-spillway-decision"] == "refused=bodies; limit_of=platform"
        never = http.post(ROUTE, json=chat("x" * 1024 * 1024))
        assert (never.status_code, "retry-after" in never.headers) == (413, False)
        eventually(lambda: stack.in_flight() == 0)
        assert http.post(ROUTE, json=chat(prompt)).status_code == 200
        assert http.get("/health").status_code == 200
