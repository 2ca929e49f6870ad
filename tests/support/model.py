"""An upstream as a transport, and the answers that inference makes of it."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import httpx2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.deadline import Deadline
from common.streams import sse
from inference import bounded
from inference.answers import Answers, AnswerStream
from inference.batching import Batcher
from inference.catalogue import Price, TargetSpec, Timeouts
from inference.metering import Meter
from inference.questions import Question
from inference.router import Router
from inference.served_models import Workshop
from inference.targets import Policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from inference.operations import Ended

BOUND_S = 5
MAX_BYTES = 1024
PROMPT = "a prompt that nobody may see"
BODY = b'{"choices":[]}'
TOKEN = sse.event(b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}')
END = sse.event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
DONE = sse.event(b"[DONE]")
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


class Model:
    """An upstream as a transport, the answers that inference makes of it, and the spans that it makes."""

    def __init__(
        self,
        *responses: Callable[[], httpx2.Response],
        first_event_timeout_s: float = BOUND_S,
        event_gap_timeout_s: float = BOUND_S,
        total_timeout_s: float = BOUND_S,
        max_stream_bytes: int = 2 * MAX_BYTES,
    ) -> None:
        self.responses = list(responses)
        self.asked: list[dict[str, Any]] = []
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        client = httpx2.AsyncClient(
            transport=httpx2.MockTransport(self._answer), event_hooks={"response": [bounded.cap_error]}
        )
        spec = TargetSpec(
            name="here",
            base_url="http://model/v1",
            timeouts=Timeouts(first_event_s=first_event_timeout_s, gap_s=event_gap_timeout_s, total_s=total_timeout_s),
            price=Price(input_usd=1.0, output_usd=2.0, as_of=dt.date(2026, 1, 1)),
        )
        policy = Policy(max_answer_bytes=MAX_BYTES, max_stream_bytes=max_stream_bytes)
        self.served = Workshop(client, policy).open_door(spec, "sk-ours")
        self.ended: list[Ended] = []
        self.answers = Answers(
            Router(self.served, policy, max_attempts=3), Batcher(), provider.get_tracer("inference"), self.ended.append
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(json.loads(request.content))
        return self.responses.pop(0)()

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def question(choices: int = 1, patience_s: float = BOUND_S, **fields: Any) -> Question:
    body = {"model": "sim-small", "messages": [{"role": "user", "content": PROMPT}], **fields}
    deadline = Deadline.after(patience_s)
    return Question("chat", "/chat/completions", "sim-small", body, "req_1", deadline, choices, meter=Meter(body))


def says(
    status: int, content: bytes, headers: dict[str, str] | None = None, more: Iterable[bytes] = ()
) -> Callable[[], httpx2.Response]:
    async def chunks() -> AsyncIterator[bytes]:
        yield content
        for part in more:
            yield part

    return lambda: httpx2.Response(status, content=chunks(), headers=headers)


async def whole(stream: AnswerStream) -> bytes:
    return b"".join([events async for events in stream.events])
