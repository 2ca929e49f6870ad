"""The spans of an operation and of its attempts, and what is told of it once it is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

from common.deadline import Patience
from common.errors import ClientGone, DeadlineExceeded, ServiceError, UpstreamFailed
from inference.errors import AttemptFailedError, error_type
from inference.operations import Ended, Operations
from inference.served_models import ModelNotFound
from inference.spans import attempt
from inference.targets import Policy
from support.catalogue import model, models_yaml, question, served, target
from support.model import BODY, BOUND_S, DONE, END, EVENTS, PROMPT, TOKEN, Model, says, whole
from support.model import question as open_question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from opentelemetry.sdk.trace import ReadableSpan
    from starlette.types import Message, Receive

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "model": "sim-small-2026",
        "choices": [{"index": 0, "message": {"content": "An answer."}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 10}, "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }
).encode()  # fmt: skip


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def attempts_of(made: Model) -> list[ReadableSpan]:
    return [span for span in made.exporter.get_finished_spans() if span.name == "attempt"]


async def test_an_operation_tells_what_was_asked_what_was_answered_and_what_it_cost() -> None:
    made = Model(says(200, ANSWER))
    await made.answers.whole(open_question(max_tokens=64, temperature=0.5))
    span = made.spans["chat sim-small"]
    assert (span.kind, span.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes_of(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim-small",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "sim-small-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "spillway.usage.is_estimated": False,
        "spillway.cost_usd": (30 * 1.0 + 20 * 2.0) / 1_000_000,
        "spillway.attempts": 1,
    }
    (one,) = attempts_of(made)
    assert one.parent is not None
    assert (one.parent.span_id, one.kind) == (span.context.span_id, SpanKind.CLIENT)


async def test_attempts_tell_where_they_went_why_and_how_they_ended() -> None:
    made = Model(says(503, b"{}", {"retry-after": "0"}), says(200, BODY))
    await made.answers.whole(open_question())
    first, second = attempts_of(made)
    told = {
        "spillway.target": "here",
        "server.address": "model",
        "server.port": 80,
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim-small",
    }
    assert attributes_of(first) == told | {
        "spillway.attempt.number": 1,
        "spillway.attempt.reason": "first",
        "spillway.attempt.outcome": "status_503",
        "error.type": "status_503",
    }
    assert attributes_of(second) == told | {
        "spillway.attempt.number": 2,
        "spillway.attempt.reason": "status_503",
        "spillway.attempt.outcome": "ok",
        "spillway.batch.requests": 1,
    }
    assert [span.status.status_code for span in (first, second)] == [StatusCode.ERROR, StatusCode.UNSET]
    operation = made.spans["chat sim-small"]
    assert [event.name for event in operation.events] == ["retry"]
    assert operation.status.status_code is StatusCode.UNSET


async def test_a_streams_first_token_is_an_event_however_many_come() -> None:
    made = Model(says(200, TOKEN * 300 + END + DONE, EVENTS), max_stream_bytes=2**20)
    stream = await made.answers.stream(open_question())
    await whole(stream)
    await stream.close(None)
    span = made.spans["chat sim-small"]
    assert [event.name for event in span.events] == ["first_token"]
    (ended,) = made.ended
    assert ended.first_chunk_s == attributes_of(span)["gen_ai.response.time_to_first_chunk"]
    assert ended.first_chunk_s is not None
    assert ended.duration_s > ended.first_chunk_s > 0
    assert len(made.exporter.get_finished_spans()) == 2


async def test_what_failed_is_an_error_with_the_attempts_reason_and_never_the_upstreams_words() -> None:
    made = Model(says(400, json.dumps({"error": {"message": PROMPT, "code": PROMPT, "param": PROMPT}}).encode()))
    with pytest.raises(ServiceError) as failed:
        await made.answers.whole(open_question())
    assert failed.value.code == PROMPT  # the caller gets the upstream's own
    for span in made.exporter.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert attributes_of(span)["error.type"] == "status_400"
        assert PROMPT not in span.to_json()
    assert [ended.error_type for ended in made.ended] == ["status_400"]


async def test_a_stream_that_breaks_is_an_error_and_one_whose_client_left_is_none() -> None:
    made = Model(says(200, TOKEN + END + DONE, EVENTS), says(200, TOKEN + END + DONE, EVENTS))
    broken = await made.answers.stream(open_question())
    await broken.close(UpstreamFailed("cut", code="stream_interrupted"))
    left = await made.answers.stream(open_question())
    await left.close(ClientGone("gone"))
    spans = [span for span in made.exporter.get_finished_spans() if span.name != "attempt"]
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR, StatusCode.UNSET]
    assert [attributes_of(span).get("error.type") for span in spans] == ["stream_interrupted", None]
    assert [(ended.error_type, ended.is_abandoned) for ended in made.ended] == [
        ("stream_interrupted", False),
        (None, True),
    ]


class Never(httpx2.AsyncByteStream):
    """An answer of which nothing comes."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""


def leaves(when: asyncio.Event) -> Receive:
    async def receive() -> Message:
        await when.wait()
        return {"type": "http.disconnect"}

    return receive


@pytest.mark.parametrize(
    ("leaver", "error", "status"), [(True, ClientGone, StatusCode.UNSET), (False, DeadlineExceeded, StatusCode.ERROR)]
)
async def test_only_a_deadline_that_passes_makes_an_error_of_an_answer_that_was_not_waited_for(
    leaver: bool, error: type[ServiceError], status: StatusCode
) -> None:
    is_asked = asyncio.Event()

    def answer() -> httpx2.Response:
        is_asked.set()
        return httpx2.Response(200, stream=Never())

    made = Model(answer)
    asked = open_question(patience_s=BOUND_S if leaver else 0.3)
    with pytest.raises(ServiceError) as failed:
        async with Patience(asked.deadline, leaves(is_asked if leaver else asyncio.Event())):
            await made.answers.whole(asked)
    assert isinstance(failed.value, error)
    assert made.spans["chat sim-small"].status.status_code is status
    assert made.ended[0].is_abandoned is leaver
    (one,) = attempts_of(made)
    if leaver:
        assert one.status.status_code is StatusCode.UNSET
        assert "error.type" not in attributes_of(one)
        assert attributes_of(one)["spillway.attempt.outcome"] == "cancelled"


class Told:
    """Operations whose spans and endings are kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("tests")
        self.ended: list[Ended] = []
        self.operations = Operations(self.tracer, self.ended.append)


async def test_a_cancellation_after_the_deadline_is_the_deadlines() -> None:
    told = Told()
    asked = open_question(patience_s=-1)
    with pytest.raises(asyncio.CancelledError), told.operations.begin(asked, "sim-small"):
        raise asyncio.CancelledError
    (span,) = told.exporter.get_finished_spans()
    assert (span.status.status_code, attributes_of(span)["error.type"]) == (StatusCode.ERROR, "deadline_exceeded")
    assert (told.ended[0].error_type, told.ended[0].is_abandoned) == ("deadline_exceeded", False)


async def test_a_bug_is_an_error_by_its_class_and_its_message_goes_nowhere() -> None:
    told = Told()
    with pytest.raises(ValueError, match=PROMPT), told.operations.begin(open_question(), "sim-small"):
        raise ValueError(PROMPT)
    (span,) = told.exporter.get_finished_spans()
    assert (span.status.status_code, attributes_of(span)["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert PROMPT not in span.to_json()


async def test_in_a_trace_that_nobody_records_the_hop_s_own_span_is_all_there_is() -> None:
    told, asked = Told(), open_question()
    hop = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    with (
        trace.use_span(hop),
        told.operations.begin(asked, "sim-small") as operation,
        attempt(told.tracer, asked) as one,
    ):
        assert operation.span is one is trace.get_current_span() is hop
    operation.end(None)
    assert (told.exporter.get_finished_spans(), len(told.ended)) == ((), 1)


def test_an_attempt_of_a_fallback_says_which_model_it_asks_for() -> None:
    told = Told()
    family = served(
        models_yaml(model(target("a"), fallback="[other]"), model(target("o", model="theirs"), name="other")), Policy()
    )
    asked = question()
    asked.route.begin(2, "other", next(one for one in family.targets() if one.name == "o"), "status_503")
    with contextlib.suppress(AttemptFailedError), attempt(told.tracer, asked):
        pass
    (span,) = told.exporter.get_finished_spans()
    found = attributes_of(span)
    assert (found["spillway.fallback.model"], found["gen_ai.request.model"]) == ("other", "theirs")


@pytest.mark.parametrize(
    ("error", "word"),
    [(ModelNotFound, "model_not_found"), (lambda: UpstreamFailed("x", code="stream_stalled"), "stream_stalled")],
)
def test_an_error_of_ours_goes_by_its_code(error: Callable[[], ServiceError], word: str) -> None:
    assert error_type(error()) == word


def test_a_name_that_is_not_served_stands_in_no_span_and_one_that_is_no_catalogues_in_no_metric() -> None:
    family = served(models_yaml(model(target("a"))), Policy())
    assert [family.named(name) for name in ("sim-small", PROMPT, "sim-large")] == ["sim-small", "other", "other"]
    assert [family.label(name) for name in ("sim-small", PROMPT, "")] == ["sim-small", "other", "other"]
    anything = Model().served
    assert [anything.named(name) for name in ("gpt-9", PROMPT)] == ["gpt-9", "other"]
    assert anything.label("gpt-9") == "other"
