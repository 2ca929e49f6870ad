"""What a call's reservation is told of its usage, however the call ended."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.deadline import Deadline
from common.telemetry.timings import Timings
from common.usage import HEADER, Usage
from gateway.access.authentication import Caller
from gateway.admission.turnstile import Turnstile
from gateway.call import CHAT, Call
from gateway.decision import Decision
from gateway.reservation import Reservation
from support.asgi import Line
from support.cache_service import ALICE, BOUND_S, CacheService, completions_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.answers.completions import Completions
    from support.cache_service import Handler

TOLD = {"prompt_tokens": 3, "completion_tokens": 4}
WHOLE = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}], "usage": TOLD}
REPORTED = Usage(5, 6, 0.25)
PROMPT = "x" * 380
"""100 tokens, as they are estimated, with the role and the message around it."""


def call_of(
    settled: list[Usage | None], *, is_stream: bool = False, content: object = PROMPT, patience_s: float = BOUND_S
) -> Call:
    body = {"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": content}]}
    payload, deadline = json.dumps(body).encode(), Deadline.after(patience_s)
    return Call(
        Caller("alice", "key1"), ALICE, "req_1", CHAT, body, payload, deadline, Timings(),
        is_stream=is_stream, reservation=Reservation(settled.append),
    )  # fmt: skip


async def settled_by(
    inference: Handler, *, leaves: bool = False, turnstile: Turnstile | None = None, **of_call: Any
) -> list[Usage | None]:
    """What the reservation was settled with after one call over `inference`."""
    settled: list[Usage | None] = []
    call = call_of(settled, **of_call)
    completions, writer = completions_over(CacheService(), inference, turnstile=turnstile)
    line = Line()
    async with asyncio.timeout(BOUND_S), writer.writing(BOUND_S), completions.flights.flying():
        asking = asyncio.create_task(answered(completions, call, line))
        if leaves:
            for _ in range(50):
                await asyncio.sleep(0)
            line.hang_up()
        await asyncio.gather(asking, return_exceptions=True)
        call.reservation.release()
    return settled


async def answered(completions: Completions, call: Call, line: Line) -> None:
    if call.is_stream:
        answer = await completions.stream(call, line.receive)
        await answer({"type": "http"}, line.receive, line.send)
    else:
        await completions.answer(call, line.receive)


def whole(headers: dict[str, str] | None = None, status: int = 200, **further: object) -> Handler:
    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=json.dumps(WHOLE | further).encode(), headers=headers)

    return answer


def streamed(*events: bytes) -> Handler:
    class Events(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for event in events:
                yield event

    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Events())

    return answer


async def hang(_: httpx2.Request) -> httpx2.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def refuse(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


async def break_off(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ReadError("reset")


async def test_what_inference_reports_counts() -> None:
    assert await settled_by(whole({HEADER: REPORTED.to_json()})) == [REPORTED]


async def test_an_error_may_have_cost_something_too() -> None:
    assert await settled_by(whole({HEADER: REPORTED.to_json()}, status=502)) == [REPORTED]


async def test_without_a_report_the_answers_own_usage_counts() -> None:
    assert await settled_by(whole()) == [Usage(3, 4)]


async def test_without_either_it_is_estimated() -> None:
    assert await settled_by(whole(usage=None)) == [Usage(100, 0, is_estimated=True)]


@pytest.mark.parametrize("inference", [whole(status=503), whole(status=400), refuse])
async def test_an_error_that_reports_nothing_used_nothing(inference: Handler) -> None:
    assert await settled_by(inference) == [None]


async def test_a_request_that_got_lost_on_its_way_may_have_cost_its_prompt() -> None:
    assert await settled_by(break_off) == [Usage(100, 0, is_estimated=True)]


async def test_a_client_that_leaves_pays_for_its_prompt() -> None:
    assert await settled_by(hang, leaves=True) == [Usage(100, 0, is_estimated=True)]


async def test_a_client_that_leaves_while_it_waits_for_a_slot_pays_nothing() -> None:
    full = Turnstile(4, queue_wait_s=BOUND_S)
    for _ in range(4):
        await full.enter(ALICE, "m", Decision(), patience_s=BOUND_S)
    assert await settled_by(hang, leaves=True, turnstile=full) == [None]


async def test_a_call_with_too_little_time_left_pays_nothing() -> None:
    assert await settled_by(hang, patience_s=0.2) == [None]


async def test_a_picture_is_estimated_as_one_however_long_its_bytes_are() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}]
    (usage,) = await settled_by(hang, leaves=True, content=picture)
    assert usage is not None
    assert 1_000 <= usage.input_tokens < 1_100


CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


async def test_a_streams_comment_counts_and_is_kept_from_the_client() -> None:
    assert await settled_by(streamed(CHUNK, LAST, REPORTED.to_comment(), DONE), is_stream=True) == [REPORTED]


async def test_a_streams_own_usage_counts_else() -> None:
    usage = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(TOLD).encode()
    assert await settled_by(streamed(CHUNK, LAST, usage, DONE), is_stream=True) == [Usage(3, 4)]


async def test_else_its_events_are_counted() -> None:
    assert await settled_by(streamed(CHUNK, CHUNK, LAST, DONE), is_stream=True) == [Usage(100, 3, is_estimated=True)]


async def test_a_stream_that_broke_off_is_estimated_by_what_came() -> None:
    assert await settled_by(streamed(CHUNK, CHUNK), is_stream=True) == [Usage(100, 2, is_estimated=True)]


async def test_whoever_did_not_lead_pays_nothing_and_a_hit_neither() -> None:
    asked = 0
    going = asyncio.Event()

    async def slow(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        await going.wait()
        return await whole()(request)

    completions, writer = completions_over(CacheService(), slow)
    paid: list[list[Usage | None]] = [[], [], []]
    calls = [call_of(settled) for settled in paid]
    async with asyncio.timeout(BOUND_S), completions.flights.flying():
        async with writer.writing(BOUND_S):
            both = asyncio.gather(*(completions.answer(call, Line().receive) for call in calls[:2]))
            for _ in range(50):
                await asyncio.sleep(0)
            going.set()
            answers = await both
            while completions.flights.count:  # noqa: ASYNC110  # what it does after its answer
                await asyncio.sleep(0)
        answers.append(await completions.answer(calls[2], Line().receive))
    for call in calls:
        call.reservation.release()
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "coalesced", "hit"]
    assert paid == [[Usage(3, 4)], [None], [None]]
    assert asked == 1


async def test_the_leaders_reservation_is_settled_only_when_the_work_that_outlives_it_has_ended() -> None:
    going = asyncio.Event()

    async def slow(request: httpx2.Request) -> httpx2.Response:
        await going.wait()
        return await whole()(request)

    completions, writer = completions_over(CacheService(), slow)
    settled: list[Usage | None] = []
    leader, follower = call_of(settled), call_of([])
    line = Line()
    async with asyncio.timeout(BOUND_S), writer.writing(BOUND_S), completions.flights.flying():
        leading = asyncio.create_task(completions.answer(leader, line.receive))
        await asyncio.sleep(0)
        following = asyncio.create_task(completions.answer(follower, Line().receive))
        for _ in range(50):
            await asyncio.sleep(0)
        line.hang_up()
        await asyncio.gather(leading, return_exceptions=True)
        leader.reservation.release()  # its answer is over
        for _ in range(50):
            await asyncio.sleep(0)
        assert settled == []
        going.set()
        assert (await following).status == 200
        while completions.flights.count:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
    assert settled == [Usage(3, 4)]
