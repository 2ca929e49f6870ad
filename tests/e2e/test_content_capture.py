"""Messages are in the traces of those keys that consent, and of no others."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_client

if TYPE_CHECKING:
    from devstack.trace_tree import Tree
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e
TRACE_S = 20


def traced(stack: UpProcess, key: str, prompt: str, *, stream: bool) -> tuple[Tree, str]:
    """The whole trace of a chat, and what was answered."""
    body = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}], "stream": stream}
    url = f"{stack.client['SPILLWAY_URL']}/v1/chat/completions"
    authorization = {"authorization": f"Bearer {key}"}
    answer = httpx2.post(url, json=body, headers=authorization, timeout=30, trust_env=False)
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"],
        answer.headers["x-trace-id"],
        lambda tree: {"put cache", "attempt"} <= {span.name for span in tree.walk()} and not tree.problems,
        TRACE_S,
    )
    assert tree.problems == []
    return tree, answer.text


def all_of(tree: Tree) -> str:
    return json.dumps([[dict(span.attributes), *span.events] for span in tree.walk()])


@pytest.mark.parametrize("stream", [False, True])
def test_a_consenting_keys_messages_are_on_the_span_of_the_operation(stack: UpProcess, stream: bool) -> None:
    prompt = f"canary {uuid.uuid4()}"
    tree, answer = traced(stack, stack.make_key(capture_content=True), prompt, stream=stream)
    (chat,) = (span for span in tree.walk() if span.name == "chat sim-small")
    asked: list[dict[str, Any]] = json.loads(chat.attributes["gen_ai.input.messages"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": prompt}]}]
    (told,) = json.loads(chat.attributes["gen_ai.output.messages"])
    assert (told["role"], told["finish_reason"]) == ("assistant", "stop")
    words = told["parts"][0]["content"].split()
    assert len(words) > 5
    assert all(word in answer for word in words)
    holding = [span.name for span in tree.walk() if prompt in json.dumps(dict(span.attributes))]
    assert holding == ["chat sim-small"]


@pytest.mark.parametrize("stream", [False, True])
def test_another_keys_are_in_no_span_although_the_deployment_captures(stack: UpProcess, stream: bool) -> None:
    prompt = f"canary {uuid.uuid4()}"
    for key in (stack.client["OPENAI_API_KEY"], stack.make_key(capture_content=False)):
        tree, _ = traced(stack, key, f"{prompt} {key[-6:]}", stream=stream)
        assert prompt not in all_of(tree)
        assert "messages" not in all_of(tree)
    assert prompt not in stack.log
