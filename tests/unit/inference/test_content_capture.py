from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from common.deadline import Deadline
from common.identity import HopIdentity
from inference.content_capture import ContentCapture
from inference.questions import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from opentelemetry.sdk.trace import Span

ON = ContentCapture(is_on=True, max_bytes=4_096)
CONSENTING = HopIdentity("acme", "k1", captures_content=True)
SAID = {"messages": [{"role": "user", "content": "What is the weather?"}]}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Rain."}, "finish_reason": "stop"}]}
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def question(body: Mapping[str, Any], identity: HopIdentity = CONSENTING, operation: str = "chat") -> Question:
    return Question(
        operation=operation, path="", model="m", body=body, request_id="", deadline=Deadline.after(1), identity=identity
    )


def attributes(span: Any) -> dict[str, Any]:
    shown: Span = span
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in shown.attributes.items()}  # type: ignore[union-attr]


def captured(body: Mapping[str, Any], answer: Mapping[str, Any], capture: ContentCapture = ON) -> dict[str, Any]:
    span = TRACER.start_span("chat m")
    capture.begin(question(body), span).answer(answer)
    return attributes(span)


def test_messages_are_structured_as_the_convention_has_them() -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "sea"}'}}
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "See?"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "c1", "content": "storm"},
        ]
    }
    assert captured(body, ANSWER) == {
        "gen_ai.input.messages": [
            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
            {"role": "user", "parts": [{"type": "text", "content": "See?"}, {"type": "image_url"}]},
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"at": "sea"}'}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "storm"}]},
        ],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "Rain."}], "finish_reason": "stop"}
        ],
    }


@pytest.mark.parametrize(
    ("capture", "asked"),
    [
        (ContentCapture(is_on=False, max_bytes=4_096), question(SAID)),
        (ON, question(SAID, HopIdentity("acme", "k1"))),
        (ON, question({"input": "x", **SAID}, operation="embeddings")),
    ],
    ids=["the deployment does not", "the key does not", "it is no chat"],
)
def test_nothing_is_captured_unless_all_agree(capture: ContentCapture, asked: Question) -> None:
    span = TRACER.start_span("chat m")
    capture.begin(asked, span).answer(ANSWER)
    assert attributes(span) == {}


def test_a_span_that_nobody_records_takes_nothing() -> None:
    span = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test").start_span("chat m")
    events = stream([b"data: {}\n\n"])
    assert ON.begin(question(SAID), span).events(events) is events


async def stream(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def chunk(index: int, finish_reason: str | None = None, **delta: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


async def test_a_stream_is_put_together_and_passes_unchanged() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "weather", "arguments": '{"at"'}}
    parts = [
        b": a comment\n\n" + chunk(0, role="assistant", content="Ra") + chunk(1, content="Sun"),
        chunk(0, content="in.") + chunk(1, tool_calls=[call]),
        chunk(1, tool_calls=[{"index": 0, "function": {"arguments": ': "sea"}'}}]),
        chunk(0, "stop") + chunk(1, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    span = TRACER.start_span("chat m")
    captured = ON.begin(question(SAID), span)
    assert [some async for some in captured.events(stream(parts))] == parts
    captured.end()
    assert attributes(span)["gen_ai.output.messages"] == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Rain."}], "finish_reason": "stop"},
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "Sun"},
                {"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"at": "sea"}'},
            ],
            "finish_reason": "tool_calls",
        },
    ]


def test_of_a_long_conversation_the_newest_is_kept_and_it_says_that_it_was_cut() -> None:
    messages = [{"role": "user", "content": f"{number} " + "x" * 400} for number in range(100)]
    found = captured({"messages": messages}, ANSWER)
    kept = found["gen_ai.input.messages"]
    assert 1 < len(kept) < 20
    assert kept[-1]["parts"][0]["content"].startswith("99 ")
    assert found["spillway.content.is_cut"] is True


async def test_a_stream_that_never_ends_is_bounded() -> None:
    span = TRACER.start_span("chat m")
    captured = ON.begin(question(SAID), span)
    async for _ in captured.events(stream([chunk(0, content="x" * 100), chunk(0, tool_calls=[{"index": 1}])] * 1_000)):
        pass
    captured.end()
    assert len(str(attributes(span)["gen_ai.output.messages"])) < 3 * ON.max_bytes
    assert attributes(span)["spillway.content.is_cut"] is True


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(categories=None)),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "message", "index"]),
            inner,
        )
    ),
    max_leaves=30,
)


@given(messages=ANYTHING, choices=ANYTHING)
def test_whatever_a_message_is_it_harms_nobody(messages: Any, choices: Any) -> None:
    found = captured({"messages": messages}, {"choices": choices})
    assert isinstance(found["gen_ai.input.messages"], list)
