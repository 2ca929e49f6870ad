from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from common.deadline import Deadline
from common.identity import HopIdentity, HopSigner
from gateway.authentication import Caller
from gateway.cache_client import CacheClient
from gateway.call import CHAT, EMBEDDINGS, Call, Timings
from gateway.completions import Answer, Completions
from gateway.inference_client import InferenceClient
from gateway.sealing import Sealer
from support.asgi import Line

BOUND_S = 5
MAX_ENTRY_BYTES = 1024
ALICE = HopIdentity("alice", "key1")
WHOLE = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}


class Platform:
    """What inference answers, and the entries of the cache service."""

    def __init__(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.response = (status, content, headers)
        self.asked = 0
        self.entries: dict[str, tuple[bytes, int]] = {}
        signer = HopSigner("a-hop-secret-of-the-tests-0123456789abcdef", "both")
        sealer = Sealer("a-secret-of-the-gateway")
        self.cache = CacheClient(
            httpx2.AsyncClient(transport=httpx2.MockTransport(self._cache), base_url="http://cache"),
            signer,
            sealer,
            timeout_s=BOUND_S,
            put_queue=8,
        )
        self.completions = Completions(
            self.cache,
            InferenceClient(
                httpx2.AsyncClient(transport=httpx2.MockTransport(self._inference), base_url="http://inference"), signer
            ),
            fingerprint_key=sealer.fingerprint_key,
            entry_ttl_s=1_000,
            max_entry_bytes=MAX_ENTRY_BYTES,
        )

    def _inference(self, _: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        status, content, headers = self.response
        return httpx2.Response(status, content=content, headers=headers)

    def _cache(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "PUT":
            self.entries[request.url.path] = (request.content, int(request.headers["x-entry-ttl-s"]))
            return httpx2.Response(204)
        entry = self.entries.get(request.url.path)
        return httpx2.Response(404) if entry is None else httpx2.Response(200, content=entry[0])

    async def answer(self, endpoint: str = CHAT, *cache_control: str) -> Answer:
        """Answer one request; what is to be stored has been stored afterwards."""
        call = Call(
            Caller("alice", "key1"),
            ALICE,
            "req_1",
            endpoint,
            {"model": "m"},
            b"{}",
            Deadline.after(BOUND_S),
            Timings(),
            cache_control=frozenset(cache_control),
        )
        async with self.cache.writing(BOUND_S):
            return await self.completions.answer(call, Line().receive)


def body_of(*choices: Any) -> bytes:
    return json.dumps({"choices": list(choices)}).encode()


async def test_a_whole_answer_is_kept_and_answers_the_next_request() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    first, second = await platform.answer(), await platform.answer()
    assert (first.headers["x-cache"], second.headers["x-cache"], platform.asked) == ("miss", "hit", 1)
    assert (first.body, first.is_cached, second.is_cached) == (second.body, False, True)


async def test_entries_end_at_different_times_near_the_one_that_was_set() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    for _ in range(20):
        await platform.answer(CHAT, "no-cache")
        ((_, ttl_s),) = platform.entries.values()
        assert 900 <= ttl_s <= 1_100


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, body_of()),
        (200, body_of({"index": 0, "finish_reason": None})),
        (200, body_of({"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": None})),
        (200, body_of({"index": 0})),
        (200, body_of("stop")),
        (200, b'{"choices": {}}'),
        (200, b'{"choices": "stop"}'),
        (200, b'{"choices": null}'),
        (200, b"{}"),
        (200, b"[]"),
        (200, b""),
        (200, b"<html>"),
        (200, body_of({"index": 0, "finish_reason": "stop", "text": "a" * MAX_ENTRY_BYTES})),
        (400, json.dumps(WHOLE).encode()),
        (503, json.dumps(WHOLE).encode()),
    ],
)
async def test_an_answer_that_is_not_whole_or_not_small_is_passed_on_and_not_kept(status: int, content: bytes) -> None:
    platform = Platform(status, content)
    for asked in (1, 2):
        answer = await platform.answer()
        assert (answer.status, answer.body, answer.headers["x-cache"]) == (status, content, "miss")
        assert platform.asked == asked
    assert platform.entries == {}


@pytest.mark.parametrize(("endpoint", "cache_control"), [(EMBEDDINGS, ()), (CHAT, ("no-store",))])
async def test_what_is_not_to_be_kept_is_not(endpoint: str, cache_control: tuple[str, ...]) -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    assert (await platform.answer(endpoint, *cache_control)).headers["x-cache"] == "bypass"
    assert platform.entries == {}


async def test_a_fresh_answer_replaces_the_kept_one() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    await platform.answer()
    platform.response = (200, json.dumps(WHOLE | {"id": "newer"}).encode(), None)
    assert (await platform.answer(CHAT, "no-cache")).headers["x-cache"] == "miss"
    again = await platform.answer()
    assert (again.headers["x-cache"], json.loads(again.body)["id"]) == ("hit", "newer")


async def test_only_what_the_caller_may_know_of_inferences_headers_is_passed_on() -> None:
    headers = {
        "retry-after": "7",
        "x-should-retry": "false",
        "x-upstream-attempts": "3",
        "server": "x",
        "set-cookie": "a",
    }
    answer = await Platform(503, b"{}", headers).answer()
    assert {name: answer.headers.get(name) for name in headers} == headers | {"server": None, "set-cookie": None}
