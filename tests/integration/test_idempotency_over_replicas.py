"""Duplicates of one request reach several gateways at once, and one of those dies, freezes, or loses its client."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.platform import BOUND_S, Platform, chat, eventually
from support.replicas import Replica, replicas

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.chaos
ROUTE = "/v1/chat/completions"
DUPLICATES = 200
LEASE_S = 2.5
"""One renewal may be missed on a busy machine: they come each third of it, and a store that was late rests 1 s."""


@pytest.fixture(scope="module")
def three(stack: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    with replicas(stack, 3, logs=tmp_path_factory.mktemp("three"), idempotency_lease_s=LEASE_S) as running:
        yield running


@dataclasses.dataclass
class Duplicates:
    """Sent all at once, spread over the replicas; `heard` is one entry for each: its answer, or how it failed."""

    stack: Platform
    body: dict[str, Any]
    key: str
    heard: list[tuple[Replica, httpx2.Response | httpx2.TransportError]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = (self.stack.last_attempt() or {"seq": 0})["seq"]

    def runs(self) -> list[dict[str, Any]]:
        return [attempt for attempt in self.stack._attempts() if attempt["seq"] > self.before]

    async def send(self, http: httpx2.AsyncClient, replica: Replica) -> None:
        try:
            self.heard.append((replica, await http.post(replica.url + ROUTE, json=self.body)))
        except httpx2.TransportError as error:
            self.heard.append((replica, error))

    async def send_all(self, replicas: list[Replica], count: int = DUPLICATES) -> None:
        headers = {"authorization": f"Bearer {self.stack.key}", "idempotency-key": self.key}
        limits = httpx2.Limits(max_connections=count)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=3 * BOUND_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as sending,
        ):
            for number in range(count):
                sending.create_task(self.send(http, replicas[number % len(replicas)]))

    def answers(self, *, without: Replica | None = None) -> list[httpx2.Response]:
        """What was heard from the replicas that lived; each of them has answered."""
        heard = [what for replica, what in self.heard if replica is not without]
        assert all(isinstance(what, httpx2.Response) for what in heard), heard
        return [what for what in heard if isinstance(what, httpx2.Response)]


def assert_all_the_same(answers: list[httpx2.Response]) -> None:
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_two_hundred_duplicates_over_three_replicas_run_once(
    stack: Platform, three: list[Replica], prompt: str, is_stream: bool
) -> None:
    body = chat(f"{prompt} [[sim ttft_ms=500]]", stream=is_stream)
    duplicates = Duplicates(stack, body, prompt.replace(" ", "_"))
    await duplicates.send_all(three)
    assert_all_the_same(duplicates.answers())
    assert len(duplicates.runs()) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in duplicates.answers()) == 1


@pytest.mark.parametrize("is_owner", [True, False])
async def test_a_replica_is_killed_and_every_surviving_caller_gets_the_same_answer(
    stack: Platform, prompt: str, tmp_path: Any, is_owner: bool
) -> None:
    with replicas(stack, 3, logs=tmp_path, idempotency_lease_s=LEASE_S) as running:
        victim, *survivors = running
        duplicates = Duplicates(stack, chat(f"{prompt} [[sim ttft_ms=3500]]"), prompt.replace(" ", "_"))
        owner = victim if is_owner else survivors[0]
        first = asyncio.create_task(duplicates.send_all([owner], 1))
        await asyncio.to_thread(eventually, lambda: any(run["prompt"] for run in duplicates.runs()))
        rest = asyncio.create_task(duplicates.send_all(running, DUPLICATES - 1))
        await asyncio.sleep(0.5)  # so that duplicates wait on each replica
        victim.kill()
        await asyncio.gather(first, rest)
    assert len(duplicates.heard) == DUPLICATES
    assert_all_the_same(duplicates.answers(without=victim))
    # The upstream saw the killed replica's call end, and one more of whoever took over.
    assert len(duplicates.runs()) == (2 if is_owner else 1)
    assert sum(run["finished"] is not None for run in duplicates.runs()) == 1


async def test_the_owners_client_leaves_while_another_replica_waits(
    stack: Platform, three: list[Replica], prompt: str
) -> None:
    duplicates = Duplicates(stack, chat(f"{prompt} [[sim ttft_ms=3000]]"), prompt.replace(" ", "_"))
    leaving = asyncio.create_task(duplicates.send_all(three[:1], 1))
    await asyncio.to_thread(eventually, lambda: any(run["prompt"] for run in duplicates.runs()))
    waiting = asyncio.create_task(duplicates.send_all(three[1:], 2))
    await asyncio.sleep(0.5)  # so that they wait
    leaving.cancel()
    await waiting
    assert_all_the_same(duplicates.answers())
    assert [run["cancelled"] for run in duplicates.runs()] == [None]


async def test_a_frozen_owner_loses_its_record_and_its_own_callers_get_the_new_owners_answer(
    stack: Platform, three: list[Replica], prompt: str
) -> None:
    body = chat(f"{prompt} [[sim ttft_ms=5000 times=1]]")
    duplicates = Duplicates(stack, body, prompt.replace(" ", "_"))
    first = asyncio.create_task(duplicates.send_all(three[:1], 1))
    await asyncio.to_thread(eventually, lambda: any(run["prompt"] for run in duplicates.runs()))
    three[0].freeze()
    try:
        await duplicates.send_all(three[1:], 2)
    finally:
        three[0].thaw()
    await first
    assert_all_the_same(duplicates.answers())
