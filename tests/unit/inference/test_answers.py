from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common import sse
from common.deadline import Deadline
from common.errors import ServiceError
from inference.answers import Answers, AnswerStream
from inference.catalogue import TargetSpec
from inference.questions import Question
from inference.router import Router
from inference.served_models import Workshop
from inference.targets import Policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PROMPT = "a prompt that nobody may see"
BODY = b'{"choices":[]}'
TOKEN = sse.event(b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}')
END = sse.event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
DONE = sse.event(b"[DONE]")
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


class Model:
    """An upstream as a transport, the answers that inference makes of it, and the spans that it makes."""

    def __init__(self, *responses: Callable[[], httpx2.Response], max_answer_bytes: int = 1024) -> None:
        self.responses = list(responses)
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))
        policy = Policy(max_answer_bytes=max_answer_bytes)
        served = Workshop(client, policy).open_door(TargetSpec(name="here", base_url="http://model/v1"), "sk-ours")
        self.answers = Answers(Router(served, policy, max_attempts=3), provider.get_tracer("inference"))

    def _answer(self, _: httpx2.Request) -> httpx2.Response:
        return self.responses.pop(0)()

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def question(choices: int = 1) -> Question:
    body = {"model": "sim-small", "messages": [{"role": "user", "content": PROMPT}]}
    return Question("chat", "/chat/completions", "sim-small", body, "req_1", Deadline.after(10), choices)


def says(status: int, content: bytes, headers: dict[str, str] | None = None) -> Callable[[], httpx2.Response]:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return lambda: httpx2.Response(status, content=chunks(), headers=headers)


async def whole(stream: AnswerStream) -> bytes:
    return b"".join([events async for events in stream.events])


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
    assert await whole(stream) == b": ping\n\n" + TOKEN + END + DONE
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
