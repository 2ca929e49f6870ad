from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx2
import pytest

from common.errors import ServiceError
from common.streams import sse
from common.usage import take_comment
from support.model import BODY, BOUND_S, DONE, END, EVENTS, PROMPT, TOKEN, Model, question, says, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_an_answer_is_the_upstreams_bytes_and_says_how_many_attempts_it_took() -> None:
    model = Model(says(503, b"{}", {"retry-after": "0"}), says(200, BODY))
    answer = await model.answers.whole(question())
    assert (answer.body, answer.attempts) == (BODY, 2)
    span = model.spans["chat sim-small"]
    assert span.attributes is not None
    assert (span.attributes["spillway.attempts"], span.attributes["gen_ai.request.model"]) == (2, "sim-small")


async def test_an_answer_beyond_the_bound_is_none() -> None:
    model = Model(says(200, b'{"a":"' + b"a" * 1024 + b'"}'))
    with pytest.raises(ServiceError) as failed:
        await model.answers.whole(question())
    assert (failed.value.status, failed.value.code) == (502, "upstream_malformed")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_upstream_that_quotes_the_prompt_puts_it_in_no_span(is_stream: bool) -> None:
    model = Model(says(400, json.dumps({"error": {"message": f"Bad prompt: {PROMPT}", "code": "bad"}}).encode()))
    with pytest.raises(ServiceError) as failed:
        await (model.answers.stream(question()) if is_stream else model.answers.whole(question()))
    assert PROMPT in failed.value.message
    assert len(model.spans) == 2
    for span in model.spans.values():
        assert PROMPT not in span.to_json()
        assert not span.status.is_ok


async def test_a_stream_is_there_once_its_first_event_is() -> None:
    model = Model(says(503, b"{}", {"retry-after": "0"}), says(200, b": ping\n\n" + TOKEN + END + DONE, EVENTS))
    stream = await model.answers.stream(question())
    shown, _ = take_comment(await whole(stream))
    assert shown == b": ping\n\n" + TOKEN + END + DONE
    assert stream.attempts == 2
    assert "chat sim-small" not in model.spans
    await stream.close(None)
    assert model.spans["chat sim-small"].status.is_ok


@pytest.mark.parametrize(
    ("headers", "content", "code"),
    [
        (EVENTS, b"", "upstream_malformed"),
        (EVENTS, b": ping\n\n", "upstream_malformed"),
        (EVENTS, b"\x00\xff garbage\n", "upstream_malformed"),
        (EVENTS, b"data: not JSON\n\n", "upstream_malformed"),
        (EVENTS, b"\xef\xbb\xbf" + TOKEN, "upstream_malformed"),
        (EVENTS, sse.event(b'{"error":{"message":"no"}}'), "upstream_error"),
        ({"content-type": "text/html"}, b"<html>", "upstream_malformed"),
        ({"content-type": "application/json"}, b'{"error":{"message":"no"}}', "upstream_error"),
        ({"content-type": "application/json"}, BODY, "upstream_malformed"),
    ],
)
async def test_a_stream_that_fails_before_its_first_event_is_a_status(
    headers: dict[str, str], content: bytes, code: str
) -> None:
    with pytest.raises(ServiceError) as failed:
        await Model(says(200, content, headers)).answers.stream(question())
    assert (failed.value.status, failed.value.code) == (502, code)


@pytest.mark.parametrize("content", [TOKEN, TOKEN + DONE, TOKEN + END[:-1]])
async def test_a_stream_that_ends_early_is_broken_not_done(content: bytes) -> None:
    stream = await Model(says(200, content, EVENTS)).answers.stream(question())
    with pytest.raises(ServiceError) as failed:
        await whole(stream)
    assert failed.value.code == "stream_interrupted"


async def test_a_stream_of_several_choices_needs_all_of_them() -> None:
    stream = await Model(says(200, TOKEN + END + DONE, EVENTS)).answers.stream(question(choices=2))
    with pytest.raises(ServiceError) as failed:
        await whole(stream)
    assert failed.value.code == "stream_interrupted"


class Endless(httpx2.AsyncByteStream):
    """A stream under way, and whether it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield TOKEN

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_stream_that_nobody_reads_to_its_end_gives_its_connection_back() -> None:
    endless = Endless()
    stream = await Model(lambda: httpx2.Response(200, stream=endless, headers=EVENTS)).answers.stream(question())
    assert not endless.is_closed
    await stream.close(None)
    assert endless.is_closed


class Slow(httpx2.AsyncByteStream):
    """A stream that says this, then nothing, or a comment again and again."""

    def __init__(self, *parts: bytes, pings: bool = False) -> None:
        self.parts = parts
        self.pings = pings
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        while self.pings:
            await asyncio.sleep(0)
            yield b": ping\n\n"
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.is_closed = True


SHORT_S = 0.05


@pytest.mark.parametrize("pings", [False, True])
async def test_a_stream_without_content_is_a_504_however_many_comments_it_sends(pings: bool) -> None:
    silent = [Slow(pings=pings), Slow(pings=pings)]
    answers = [lambda slow=slow: httpx2.Response(200, stream=slow, headers=EVENTS) for slow in silent]
    model = Model(*answers, first_event_timeout_s=SHORT_S, max_stream_bytes=2**40)
    with pytest.raises(ServiceError) as failed:
        await model.answers.stream(question())
    assert (failed.value.status, failed.value.code) == (504, "upstream_timeout")
    assert [slow.is_closed for slow in silent] == [True, True]  # a timeout is tried once more


@pytest.mark.parametrize("pings", [False, True])
async def test_a_stream_that_stalls_is_ended_however_many_comments_it_sends(pings: bool) -> None:
    slow = Slow(TOKEN, TOKEN, pings=pings)
    model = Model(
        lambda: httpx2.Response(200, stream=slow, headers=EVENTS), event_gap_timeout_s=SHORT_S, max_stream_bytes=2**40
    )
    stream = await model.answers.stream(question())
    with pytest.raises(ServiceError) as failed:
        await whole(stream)
    assert (failed.value.status, failed.value.code) == (504, "stream_stalled")
    await stream.close(failed.value)
    assert slow.is_closed


class Talkative(Slow):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield sse.event(b'{"choices":[]}')


@pytest.mark.parametrize(("patience_s", "total_s"), [(SHORT_S + 0.3, BOUND_S), (BOUND_S, SHORT_S)])
async def test_a_stream_that_never_ends_is_ended_by_the_deadline_or_the_targets_total(
    patience_s: float, total_s: float
) -> None:
    model = Model(
        lambda: httpx2.Response(200, stream=Talkative(), headers=EVENTS),
        total_timeout_s=total_s,
        max_stream_bytes=2**40,
    )
    stream = await model.answers.stream(question(patience_s=patience_s))
    with pytest.raises(ServiceError) as failed:
        async for _ in stream.events:
            pass
    assert (failed.value.status, failed.value.code) == (504, "deadline_exceeded")
    assert failed.value.headers["x-should-retry"] == "false"
    await stream.close(failed.value)


async def test_a_whole_answer_that_stalls_in_its_middle_is_ended_by_the_targets_total() -> None:
    slow = [Slow(BODY[:5]), Slow(BODY[:5])]
    answers = [lambda one=one: httpx2.Response(200, stream=one) for one in slow]
    with pytest.raises(ServiceError) as failed:
        await Model(*answers, total_timeout_s=SHORT_S).answers.whole(question())
    assert (failed.value.status, failed.value.code) == (504, "upstream_timeout")
    assert all(one.is_closed for one in slow)


async def test_a_stream_beyond_its_cap_is_ended() -> None:
    stream = await Model(says(200, TOKEN, EVENTS, more=[TOKEN] * 100)).answers.stream(question())
    with pytest.raises(ServiceError) as failed:
        await whole(stream)
    assert (failed.value.status, failed.value.code) == (502, "stream_too_large")


class Flood(Slow):
    """An error that never ends, packed or not."""

    sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += 1
            yield b"x" * 65_536


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_error_is_read_no_further_than_its_cap(is_stream: bool, encoding: str) -> None:
    flood = Flood()
    model = Model(lambda: httpx2.Response(400, stream=flood, headers={"content-encoding": encoding}))
    with pytest.raises(ServiceError) as failed:
        await (model.answers.stream(question()) if is_stream else model.answers.whole(question()))
    assert (failed.value.status, flood.sent, flood.is_closed) == (400, 1, True)
