from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.deadline import Deadline
from common.telemetry.timings import Timings
from gateway.access.authentication import Caller
from gateway.caching.fingerprint import fingerprint
from gateway.call import CHAT, EMBEDDINGS, Call
from support.asgi import Line
from support.cache_service import ALICE, BOUND_S, SEALER, CacheService, completions_over

if TYPE_CHECKING:
    from gateway.answers.answer import Answer

MAX_ENTRY_BYTES = 1024
WHOLE = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}


class Platform:
    """What inference answers, and the entries of the cache service."""

    def __init__(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, *, hot_life_s: float = 0
    ) -> None:
        self.response = (status, content, headers)
        self.asked = 0
        self.calls: list[Call] = []
        self.service = CacheService()
        self.completions, self.writer = completions_over(
            self.service, self._inference, hot_life_s=hot_life_s, max_entry_bytes=MAX_ENTRY_BYTES
        )

    async def _inference(self, _: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        status, content, headers = self.response
        return httpx2.Response(status, content=content, headers=headers)

    async def answer(self, endpoint: str = CHAT, *cache_control: str) -> Answer:
        """Answer one request; what is to be stored has been stored afterwards."""
        call = Call(
            Caller("alice", "key1"),
            ALICE,
            "req_1",
            endpoint,
            {"model": "m", "input": "x"},
            b"{}",
            Deadline.after(BOUND_S),
            Timings(),
            cache_control=frozenset(cache_control),
        )
        self.calls.append(call)
        async with self.writer.writing(BOUND_S), self.completions.flights.flying():
            answer = await self.completions.answer(call, Line().receive)
            async with asyncio.timeout(BOUND_S):
                while self.completions.flights.count:  # noqa: ASYNC110  # what it does after its answer
                    await asyncio.sleep(0)
            return answer


def body_of(*choices: Any) -> bytes:
    return json.dumps({"choices": list(choices)}).encode()


async def test_a_whole_answer_is_kept_and_answers_the_next_request() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    first, second = await platform.answer(), await platform.answer()
    assert (first.headers["x-cache"], second.headers["x-cache"], platform.asked) == ("miss", "hit", 1)
    assert (first.body, first.is_cached, second.is_cached) == (second.body, False, True)


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
    assert platform.service.entries == {}


@pytest.mark.parametrize(("endpoint", "cache_control"), [(EMBEDDINGS, ("no-store",)), (CHAT, ("no-store",))])
async def test_what_is_not_to_be_kept_is_not(endpoint: str, cache_control: tuple[str, ...]) -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    assert (await platform.answer(endpoint, *cache_control)).headers["x-cache"] == "bypass"
    assert platform.service.entries == {}


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


async def test_a_fallbacks_answer_is_kept_under_the_model_that_gave_it_and_no_other() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode(), {"x-spillway-model": "other"})
    first = await platform.answer()
    assert (first.headers["x-cache"], first.headers["x-spillway-model"]) == ("miss", "other")
    ((name, _),) = platform.service.entries.items()
    key = SEALER.fingerprint_key
    body = {"model": "other", "input": "x"}
    assert name == fingerprint(key, tenant="alice", endpoint=CHAT, body=body)
    assert (await platform.answer()).headers["x-cache"] == "miss"


async def test_a_damaged_entry_is_a_miss_an_alarm_and_replaced() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    await platform.answer()
    ((name, (sealed, life)),) = platform.service.entries.items()
    platform.service.entries[name] = (sealed[:-1] + b"x", life)
    assert (await platform.answer()).headers["x-cache"] == "miss"
    assert platform.completions.cache.broken_seals == 1
    assert (await platform.answer()).headers["x-cache"] == "hit"


async def test_an_entry_that_was_read_is_answered_from_memory_without_a_call() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode(), hot_life_s=60)
    await platform.answer()
    assert (await platform.answer()).headers["x-cache"] == "hit"
    asked = len(platform.service.requests)
    again = await platform.answer()
    assert (again.headers["x-cache"], again.headers["age"]) == ("hit", "7")
    assert len(platform.service.requests) == asked
    assert (await platform.answer(CHAT, "max-age=5")).headers["x-cache"] == "hit"  # the transport knows no ages
    assert len(platform.service.requests) == asked + 1
    await platform.answer(CHAT, "no-cache")
    platform.service.entries.clear()
    assert (await platform.answer()).headers["x-cache"] == "miss"  # a fresh answer is not hidden by the one before


async def test_with_the_cache_gone_identical_calls_of_this_replica_still_share_one() -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())

    async def refuse(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    platform.service.answer = refuse
    answers = await asyncio.gather(*(platform.answer() for _ in range(5)))
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced"] * 4 + ["miss"]
    assert platform.asked == 1


@pytest.mark.parametrize(
    ("directives", "noted"), [((), "miss"), (("no-store",), "bypass:no-store"), (("no-cache",), "miss:no-cache")]
)
async def test_the_decision_record_says_what_became_of_the_cache_and_why(
    directives: tuple[str, ...], noted: str
) -> None:
    platform = Platform(200, json.dumps(WHOLE).encode())
    await platform.answer(CHAT, *directives)
    assert platform.calls[-1].decision.facts["cache"] == noted
