"""A request is one line on each hop that it took, and the lines and the trace name each other."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_client
from e2e.up_process import wait_until

if TYPE_CHECKING:
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e
SERVICES = ("gateway", "cache", "inference", "jobs")


def lines_of(stack: UpProcess, trace_id: str) -> list[dict[str, Any]]:
    """The lines of requests in a trace, whatever the service."""
    lines = [line for service in SERVICES for line in stack.log_lines(service)]
    return [line for line in lines if line.get("trace_id") == trace_id and line["message"] == "request"]


def ask(stack: UpProcess, key: str = "", **fields: Any) -> httpx2.Response:
    body = {"model": "sim-small", "messages": [{"role": "user", "content": str(uuid.uuid4())}], **fields}
    authorization = {"authorization": f"Bearer {key or stack.client['OPENAI_API_KEY']}"}
    url = f"{stack.client['SPILLWAY_URL']}/v1/chat/completions"
    return httpx2.post(url, json=body, headers=authorization, timeout=30, trust_env=False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_line_on_each_hop_with_the_ids_of_its_span(stack: UpProcess, stream: bool) -> None:
    answer = ask(stack, stream=stream)
    trace_id = answer.headers["x-trace-id"]
    wait_until(lambda: len(lines_of(stack, trace_id)) >= 4, 20, "all lines are written")
    lines = lines_of(stack, trace_id)
    assert Counter((line["service"], line["method"], line["status"]) for line in lines) == {
        ("gateway", "POST", 200): 1,
        ("cache", "POST", 200): 1,
        ("cache", "PUT", 204): 1,
        ("inference", "POST", 200): 1,
    }
    ids = {line["span_id"] for line in lines}
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"], trace_id, lambda tree: ids <= {span.span_id for span in tree.walk()}, 20
    )
    assert {span.span_id for span in tree.walk() if span.kind == "server"} == ids
    (edge,) = (line for line in lines if line["service"] == "gateway")
    assert edge["request_id"] == answer.headers["x-request-id"]
    shown = dict(pair.split("=", 1) for pair in answer.headers["x-spillway-decision"].split("; "))
    assert shown.items() <= edge["decision"].items()
    assert (edge["decision"]["cache"], edge["tenant"]) == ("miss", "dev")


def test_a_refused_request_says_why_in_its_line(stack: UpProcess) -> None:
    refused = ask(stack, key="nobody")
    assert refused.status_code == 401
    wait_until(lambda: bool(lines_of(stack, refused.headers["x-trace-id"])), 20, "its line is written")
    (line,) = lines_of(stack, refused.headers["x-trace-id"])
    assert (line["service"], line["status"], line["code"]) == ("gateway", 401, "invalid_api_key")


def test_health_writes_no_lines(stack: UpProcess) -> None:
    for path in ("/livez", "/readyz", "/health"):
        httpx2.get(f"{stack.client['SPILLWAY_URL']}{path}", trust_env=False).raise_for_status()
    trace_id = ask(stack).headers["x-trace-id"]
    wait_until(lambda: bool(lines_of(stack, trace_id)), 20, "a later line is written")
    assert not [line for line in stack.log_lines("gateway") if line.get("path") in ("/livez", "/readyz", "/health")]
