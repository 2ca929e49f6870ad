"""Streams killed at a random chunk in each of six ways: none is taken for complete, none goes on with another text."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support import chaos
from support.platform import BOUND_S, Platform, chat, platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.valkey import Valkey

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900 if chaos.IS_LONG else 120)]
WAYS = ("fin", "rst", "stall", "garbage", "end", "done")
"""FIN, RST, silence, bytes that are no event, an end without finish_reason, and [DONE] without it."""
KILLED = chaos.times(120, 600)
AT_ONCE = 16
TOKENS = 40


@dataclass(frozen=True)
class Seen:
    """What a client got of one stream."""

    how: str
    cut_after: int
    status: int
    body: bytes
    ended_well: bool

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(event.removeprefix(b"data: ")) for event in self.body.split(b"\n\n") if event]


@pytest.fixture(scope="module")
def impatient(state_store: Valkey, cache_store: Valkey) -> Iterator[Platform]:
    """The platform with a short patience for silence in a stream."""
    with platform(state_store.url, cache_store.url, of_inference={"event_gap_timeout_s": 1}) as started:
        yield started


async def test_no_killed_stream_is_presented_as_complete_or_mixed(impatient: Platform) -> None:
    chance = chaos.chance()
    nonce = chance.random()
    deaths = [
        (WAYS[number % len(WAYS)], chance.randint(1, TOKENS - 1), chance.choice([0, 2])) for number in range(KILLED)
    ]
    turn = asyncio.Semaphore(AT_ONCE)
    headers = {"authorization": f"Bearer {impatient.key}"}
    async with httpx2.AsyncClient(
        base_url=impatient.gateway, headers=headers, timeout=BOUND_S, trust_env=False
    ) as http:

        async def kill(number: int, how: str, cut_after: int, itl_ms: int) -> Seen:
            prompt = (
                f"{nonce}, {number} [[sim how={how} cut_after={cut_after} itl_ms={itl_ms} tokens={TOKENS} times=1]]"
            )
            async with turn:
                return await read(http, chat(prompt, stream=True), how, cut_after)

        seen = await asyncio.gather(*(kill(number, *death) for number, death in enumerate(deaths)))
    assert Counter(one.status for one in seen) == {200: KILLED}
    for one in seen:
        *chunks, last = one.events
        assert b"[DONE]" not in one.body, one
        assert not one.ended_well, one
        assert set(last) == {"error"}, one
        assert last["error"]["type"] in ("upstream_error", "timeout_error"), one
        # The number of the attempt is part of the id, and only the first attempt breaks: a second would go on well.
        assert {chunk["id"].rpartition("-")[2] for chunk in chunks} == {"1"}, one
        assert len(chunks) == one.cut_after, one
        assert not any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]), one


async def read(http: httpx2.AsyncClient, body: dict[str, Any], how: str, cut_after: int) -> Seen:
    data = b""
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        try:
            async for part in response.aiter_raw():
                data += part
        except httpx2.RemoteProtocolError:
            return Seen(how, cut_after, response.status_code, data, ended_well=False)
    return Seen(how, cut_after, response.status_code, data, ended_well=True)
