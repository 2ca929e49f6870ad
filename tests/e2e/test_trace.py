"""The trace of a request, from the spans that the services really exported."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import local_http, trace_client

if TYPE_CHECKING:
    from devstack.trace_tree import Tree
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e
TRACE_S = 15
CALLER_TRACE = "0af7651916cd43dd8448eb211c80319c"


def ask(
    stack: UpProcess, prompt: str, *, stream: bool = False, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Send a chat; return its status and trace id."""
    body: dict[str, Any] = {
        "model": "sim-small",
        "messages": [{"role": "user", "content": f"{uuid.uuid4()} {prompt}"}],
        "stream": stream,
    }
    authorization = {"authorization": f"Bearer {stack.client['OPENAI_API_KEY']}"}
    url = f"{stack.client['SPILLWAY_URL']}/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, headers=authorization | (headers or {}), timeout=30) as answer:
        with contextlib.suppress(httpx2.RemoteProtocolError):  # how a stream that broke ends
            answer.read()
        return answer.status_code, answer.headers["x-trace-id"]


def tree_of(stack: UpProcess, trace_id: str, spans: Counter[tuple[str, str]]) -> Tree:
    """Wait until as many spans have arrived as expected, and hold the tree to be one."""
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"], trace_id, lambda tree: names_of(tree) == spans, TRACE_S
    )
    assert names_of(tree) == spans
    assert len(tree.roots) == 1
    assert tree.orphans == ()
    return tree


def names_of(tree: Tree) -> Counter[tuple[str, str]]:
    return Counter((span.service, span.name) for span in tree.walk())


STREAMED = Counter(
    {
        ("gateway", "POST /v1/chat/completions"): 1,
        ("gateway", "POST"): 1,
        ("inference", "POST /v1/chat/completions"): 1,
        ("inference", "chat sim-small"): 1,
        ("inference", "attempt"): 1,
    }
)
LOOKED_UP = Counter({("gateway", "POST"): 1, ("cache", "POST /v1/lookups"): 1})
STORED = Counter({("gateway", "PUT"): 1, ("cache", "PUT /v1/entries/{fingerprint}"): 1})


@pytest.mark.parametrize("chunks", [10, 300])
def test_a_stream_has_the_same_spans_whatever_its_number_of_chunks(stack: UpProcess, chunks: int) -> None:
    status, trace_id = ask(stack, f"[[sim tokens={chunks}]]", stream=True)

    assert status == 200
    tree_of(stack, trace_id, STREAMED + LOOKED_UP + STORED)


def test_a_miss_is_one_tree_through_every_hop(stack: UpProcess) -> None:
    status, trace_id = ask(stack, "hello")

    assert status == 200
    tree = tree_of(stack, trace_id, STREAMED + LOOKED_UP + STORED)
    root = tree.roots[0].span
    assert (root.service, root.kind) == ("gateway", "server")
    assert root.attributes["spillway.cache.outcome"] == "miss"
    assert root.attributes["spillway.tenant"] == "dev"


def test_each_attempt_is_a_span_that_says_why_it_failed(stack: UpProcess) -> None:
    status, trace_id = ask(stack, "[[sim status=503 times=2]]")

    assert status == 200
    retried = Counter({("inference", "attempt"): 2})
    tree = tree_of(stack, trace_id, STREAMED + LOOKED_UP + STORED + retried)
    attempts = sorted(
        (span for span in tree.walk() if span.name == "attempt"),
        key=lambda span: span.attributes["spillway.attempt.number"],
    )
    assert [span.attributes.get("error.type") for span in attempts] == ["status_503", "status_503", None]
    assert [span.status for span in attempts][:2] == ["error", "error"]
    (chat,) = (span for span in tree.walk() if span.name == "chat sim-small")
    assert chat.attributes["spillway.attempts"] == 3
    assert [event["name"] for event in chat.events] == ["retry", "retry"]


def test_a_callers_trace_is_a_link_and_never_the_parent(stack: UpProcess) -> None:
    traceparent = f"00-{CALLER_TRACE}-b7ad6b7169203331-01"
    _, trace_id = ask(stack, "linked", headers={"traceparent": traceparent, "baggage": "secret=1"})

    assert trace_id != CALLER_TRACE
    tree_of(stack, trace_id, STREAMED + LOOKED_UP + STORED)
    (root,) = (
        span
        for span in local_http.request(f"{stack.client['SPILLWAY_TRACES_URL']}/traces/{trace_id}").json()
        if span["parent_id"] is None
    )
    assert [link["trace_id"] for link in root["links"]] == [CALLER_TRACE]


def test_no_prompt_answer_or_key_is_in_any_span_or_log_line(stack: UpProcess) -> None:
    canary = "canary-7f3a9c"
    for directive in ("", "[[sim status=503]]", "[[sim status=400]]", "[[sim cut_after=2 how=fin]]"):
        _, trace_id = ask(stack, f"{canary} {directive}")
        _, streamed = ask(stack, f"{canary} {directive}", stream=True)
        for seen in (trace_id, streamed):
            trace_client.wait_for(stack.client["SPILLWAY_TRACES_URL"], seen, lambda tree: len(tree.roots) == 1, TRACE_S)
            spans = local_http.request(f"{stack.client['SPILLWAY_TRACES_URL']}/traces/{seen}").body.decode()
            assert canary not in spans
            assert stack.client["OPENAI_API_KEY"] not in spans

    assert canary not in stack.log
    # `up` itself shows the development key, in what it offers to paste; no line of a service does.
    service_lines = [line for line in stack.log.splitlines() if '"service"' in line]
    assert service_lines
    assert not any(stack.client["OPENAI_API_KEY"] in line for line in service_lines)
