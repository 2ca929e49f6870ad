"""What a trace looks like, way by way: one tree, whose spans, kinds, outcomes and links are known beforehand.

A line is `service: name (kind) outcome`, indented below its parent, siblings in the order in which they began.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_client
from e2e.up_process import replica, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devstack.trace_tree import Node, Tree
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e
TRACE_S = 20
KEY_LOOKED_UP = "look_up_key state"
"""Happens when a key's record is 10 s old, so it is in some traces and not in others."""
CHAT = "/v1/chat/completions"

ASKED_CACHE = """\
  gateway: POST (client)
    cache: POST /v1/lookups (server)
      cache: look_up cache (client)
"""
ANSWERED = """\
  gateway: POST (client)
    inference: POST /v1/chat/completions (server)
      inference: chat sim-small (client)
        inference: attempt (client)
"""
STORED = """\
  gateway: PUT (client)
    cache: PUT /v1/entries/{fingerprint} (server)
      cache: put cache (client)
"""
RELEASED = """\
  gateway: DELETE (client)
    cache: DELETE /v1/flights/{fingerprint}/{flight} (server)
      cache: release cache (client)
"""
CHATTED = "gateway: POST /v1/chat/completions (server)\n"


def shape_of(tree: Tree) -> str:
    return "".join(_lines(tree.roots, "")) + "".join(f"orphan {line}" for line in _lines(tree.orphans, ""))


def _lines(nodes: tuple[Node, ...], indent: str) -> Iterator[str]:
    for node in nodes:
        span = node.span
        if span.name == KEY_LOOKED_UP:
            continue
        outcome = f" {span.attributes.get('error.type')}" if span.status == "error" else ""
        links = "".join(f" -> {link['attributes'].get('spillway.link')}" for link in span.links)
        yield f"{indent}{span.service}: {span.name} ({span.kind}){outcome}{links}\n"
        yield from _lines(node.children, indent + "  ")


def seen(stack: UpProcess, trace_id: str, shape: str) -> Tree:
    """Wait for a trace of this shape, and hold it to be just that."""
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"], trace_id, lambda tree: shape_of(tree) == shape, TRACE_S
    )
    assert shape_of(tree) == shape
    assert tree.problems == []
    return tree


class Asking:
    """A client of one gateway of the stack."""

    def __init__(self, stack: UpProcess, url: str = "", key: str = "") -> None:
        authorization = {"authorization": f"Bearer {key or stack.client['OPENAI_API_KEY']}"}
        self.http = httpx2.Client(
            base_url=url or stack.client["SPILLWAY_URL"], headers=authorization, timeout=30, trust_env=False
        )

    def chat(self, prompt: str, *, model: str = "sim-small", **fields: Any) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
        with self.http.stream("POST", CHAT, json=body) as answer:
            with contextlib.suppress(httpx2.RemoteProtocolError):  # how a stream that broke ends
                answer.read()
            return answer

    def trace_of(self, prompt: str, **fields: Any) -> str:
        return str(self.chat(prompt, **fields).headers["x-trace-id"])


@pytest.fixture
def asking(stack: UpProcess) -> Iterator[Asking]:
    asking = Asking(stack)
    with asking.http:
        yield asking


@pytest.fixture
def prompt() -> str:
    return f"question {uuid.uuid4()}"


def test_a_miss(stack: UpProcess, asking: Asking, prompt: str) -> None:
    answer = asking.chat(prompt)
    tree = seen(stack, answer.headers["x-trace-id"], CHATTED + ASKED_CACHE + ANSWERED + STORED)
    root = tree.roots[0].span.attributes
    assert root["spillway.cache.outcome"] == "miss"
    assert root["spillway.request.id"] == answer.headers["x-request-id"]
    by_name = {span.name: span.attributes for span in tree.walk()}
    assert by_name["POST /v1/lookups"]["spillway.cache.lookup"] == "lead"
    assert by_name["look_up cache"] == {
        "db.system.name": "redis", "db.operation.name": "look_up", "spillway.store": "cache",
    }  # fmt: skip
    assert {"gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "spillway.cost_usd"} < by_name[
        "chat sim-small"
    ].keys()
    assert by_name["chat sim-small"]["gen_ai.response.finish_reasons"] == ["stop"]


def test_a_hit(stack: UpProcess, asking: Asking, prompt: str) -> None:
    seen(stack, asking.trace_of(prompt), CHATTED + ASKED_CACHE + ANSWERED + STORED)
    hit = asking.chat(prompt)
    assert hit.headers["x-cache"] == "hit"
    tree = seen(stack, hit.headers["x-trace-id"], CHATTED + ASKED_CACHE)
    assert [span.attributes.get("spillway.cache.lookup") for span in tree.walk()].count("hit") == 1
    again = asking.chat(prompt)
    assert again.headers["x-spillway-decision"].endswith("hit:memory; attempts=0; status=200")
    seen(stack, again.headers["x-trace-id"], CHATTED)


@pytest.mark.parametrize("chunks", [10, 300])
def test_a_stream_has_as_many_spans_whatever_its_chunks(
    stack: UpProcess, asking: Asking, prompt: str, chunks: int
) -> None:
    answer = asking.chat(f"{prompt} [[sim tokens={chunks}]]", stream=True)
    assert answer.text.count("data: ") > chunks
    tree = seen(stack, answer.headers["x-trace-id"], CHATTED + ASKED_CACHE + ANSWERED + STORED)
    (chat,) = (span for span in tree.walk() if span.name == "chat sim-small")
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert [event["name"] for event in chat.events] == ["first_token"]


def test_a_follower_here_and_one_elsewhere_are_linked_to_whose_call_it_was(
    stack: UpProcess, asking: Asking, prompt: str
) -> None:
    """All ask the same while the upstream takes its time: one of them leads, and the others' traces say whom."""
    slow = f"{prompt} [[sim ttft_ms=3000]]"
    before = last_attempt(stack)
    with replica(stack, "gateway") as second, Asking(stack, second.url).http as other:
        answers: list[httpx2.Response] = []
        body = {"model": "sim-small", "messages": [{"role": "user", "content": slow}]}
        threads = [
            threading.Thread(target=lambda http=http: answers.append(http.post(CHAT, json=body)))
            for http in (asking.http, asking.http, other)
        ]
        threads[0].start()
        wait_until(lambda: bool(attempts(stack, before)), 10, "the first call has reached the upstream")
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced", "coalesced", "miss"]
    (leader,) = (answer for answer in answers if answer.headers["x-cache"] == "miss")
    followers = [answer.headers["x-trace-id"] for answer in answers if answer is not leader]
    linked = CHATTED.replace("\n", " -> leader\n")
    shapes = {linked, linked + ASKED_CACHE}
    found = [
        trace_client.wait_for(
            stack.client["SPILLWAY_TRACES_URL"], trace_id, lambda tree: shape_of(tree) in shapes, TRACE_S
        )
        for trace_id in followers
    ]
    assert {shape_of(tree) for tree in found} == shapes
    links = [link for tree in found for link in tree.roots[0].span.links]
    assert {link["trace_id"] for link in links} == {leader.headers["x-trace-id"]}


def attempts(stack: UpProcess, after: int = 0) -> list[dict[str, Any]]:
    """What reached the upstream after that attempt."""
    url = f"{stack.client['SPILLWAY_SIMULATOR_URL']}/_sim/requests?after={after}"
    found: list[dict[str, Any]] = httpx2.get(url, trust_env=False).json()["requests"]
    return found


def last_attempt(stack: UpProcess) -> int:
    return max((one["seq"] for one in attempts(stack)), default=0)


def test_retries_and_a_fallback(stack: UpProcess, asking: Asking, prompt: str) -> None:
    trace_id = asking.trace_of(f"{prompt} [[sim status=503 times=2]]", model="sim-large")
    attempts = (
        ANSWERED.replace("attempt (client)", "attempt (client) status_503")
        + "        inference: attempt (client) status_503\n"
        + "        inference: attempt (client)\n"
    ).replace("sim-small", "sim-large")
    tree = seen(stack, trace_id, CHATTED + ASKED_CACHE + attempts + STORED)
    tries = [span.attributes for span in tree.walk() if span.name == "attempt"]
    assert [one["spillway.attempt.number"] for one in tries] == [1, 2, 3]
    assert "sim-small" in [one["spillway.target"] for one in tries]
    (chat,) = (span for span in tree.walk() if span.name == "chat sim-large")
    assert {"retry", "fallback"} <= {event["name"] for event in chat.events}


def test_each_attempt_says_why_it_failed(stack: UpProcess, asking: Asking, prompt: str) -> None:
    answer = asking.chat(f"{prompt} [[sim status=503]]")
    assert answer.status_code == 503
    failed = "        inference: attempt (client) status_503\n"
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"],
        answer.headers["x-trace-id"],
        lambda tree: shape_of(tree).startswith(CHATTED[:-1] + " 503\n"),
        TRACE_S,
    )
    assert shape_of(tree).endswith(3 * failed)
    assert tree.problems == []
    (chat,) = (span for span in tree.walk() if span.name == "chat sim-small")
    assert chat.attributes["spillway.attempts"] == 3
    assert [event["name"] for event in chat.events] == ["retry", "retry"]


def test_a_stream_that_breaks_is_an_error_on_each_hop(stack: UpProcess, asking: Asking, prompt: str) -> None:
    answer = asking.chat(f"{prompt} [[sim cut_after=2 how=fin]]", stream=True)
    assert answer.status_code == 200
    broken = "stream_interrupted"
    hop = ANSWERED.replace("(server)", f"(server) {broken}")
    shape = CHATTED.replace("\n", " upstream_failed\n") + ASKED_CACHE + hop
    shape = shape.replace("sim-small (client)", f"sim-small (client) {broken}")
    seen(stack, answer.headers["x-trace-id"], shape)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_no_error(stack: UpProcess, asking: Asking, prompt: str, stream: bool) -> None:
    slow = f"{prompt} [[sim tokens=100 itl_ms=200]]"
    body = {"model": "sim-small", "messages": [{"role": "user", "content": slow}], "stream": stream}
    before = last_attempt(stack)
    with contextlib.suppress(httpx2.ReadTimeout), asking.http.stream("POST", CHAT, json=body, timeout=2) as answer:
        next(answer.iter_raw())
    (attempt,) = attempts(stack, before)
    trace_id = _trace_of_request(stack, attempt["request_id"])
    seen(stack, trace_id, CHATTED + ASKED_CACHE + ANSWERED + RELEASED)


def _trace_of_request(stack: UpProcess, request_id: str) -> str:
    """From the log, as an operator finds it."""
    lines: list[dict[str, Any]] = []

    def is_logged() -> bool:
        lines[:] = [line for line in stack.log_lines("gateway") if line.get("request_id") == request_id]
        return bool(lines)

    wait_until(is_logged, 10, "the request is over")
    return str(lines[0]["trace_id"])


def test_a_refusal_by_a_limit_says_which(stack: UpProcess, prompt: str) -> None:
    with Asking(stack, key=stack.make_key(limits={"requests_per_minute": 1})).http as http:
        body = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]}
        assert http.post(CHAT, json=body).status_code == 200
        refused = http.post(CHAT, json=body)
    assert refused.status_code == 429
    tree = seen(stack, refused.headers["x-trace-id"], CHATTED + "  gateway: admit limits (client)\n")
    root = tree.roots[0].span
    assert (root.status, root.attributes["http.response.status_code"]) == ("unset", 429)
    assert root.attributes["spillway.error.code"] == "key_requests_per_minute_exceeded"
    assert root.attributes["spillway.decision.refused"] == "key.requests_per_minute"


def test_a_key_that_is_none_and_a_path_that_is_none_say_so(stack: UpProcess) -> None:
    with Asking(stack, key="nobody").http as http:
        refused, missing = http.get("/v1/models"), http.get("/v1/nothing")
    tree = seen(stack, refused.headers["x-trace-id"], "gateway: GET /v1/models (server)\n")
    assert tree.roots[0].span.attributes["spillway.error.code"] == "invalid_api_key"
    tree = seen(stack, missing.headers["x-trace-id"], "gateway: GET (server)\n")
    assert tree.roots[0].span.attributes["spillway.error.code"] == "not_found"


def test_a_cache_that_is_down_is_a_miss_with_a_span_that_says_why(stack: UpProcess, prompt: str) -> None:
    with replica(stack, "gateway", GATEWAY_CACHE_URL="http://127.0.0.1:9") as cacheless:
        asking = Asking(stack, cacheless.url)
        with asking.http:
            answer = asking.chat(prompt)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")
    failed = "  gateway: POST (client) ConnectError\n"
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"],
        answer.headers["x-trace-id"],
        lambda tree: failed in shape_of(tree) and "attempt" in shape_of(tree),
        TRACE_S,
    )
    assert shape_of(tree).startswith(CHATTED + failed + ANSWERED)
    assert (tree.problems, tree.roots[0].span.status) == ([], "unset")


def test_a_job_from_its_submission_to_its_end(stack: UpProcess, asking: Asking, prompt: str) -> None:
    job = {"endpoint": CHAT, "body": {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]}}
    accepted = asking.http.post("/v1/jobs", json=job)
    assert asking.http.get(f"{accepted.headers['location']}?wait=30", timeout=40).json()["state"] == "succeeded"
    replayed = "".join(f"          {line}\n" for line in (CHATTED + ASKED_CACHE + ANSWERED + STORED).splitlines())
    shape = (
        "gateway: POST /v1/jobs (server)\n"
        "  gateway: POST (client)\n"
        "    jobs: POST /v1/jobs (server)\n"
        "      jobs: accept state (client)\n"
        "      worker: job wait (internal)\n"
        "      worker: job attempt (consumer) -> submission\n"
        "        worker: POST (client)\n"
        f"{replayed}"
        "        worker: finish state (client)\n"
    )
    tree = seen(stack, accepted.headers["x-trace-id"], shape)
    (attempt,) = (span for span in tree.walk() if span.name == "job attempt")
    assert [link["trace_id"] for link in attempt.links] == [accepted.headers["x-trace-id"]]


def test_a_callers_trace_goes_on_if_its_key_is_trusted_and_is_a_link_otherwise(stack: UpProcess, prompt: str) -> None:
    caller, span_id = uuid.uuid4().hex, "b7ad6b7169203331"
    headers = {"traceparent": f"00-{caller}-{span_id}-01"}
    body = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]}
    with Asking(stack, key=stack.make_key(trusted_trace=True)).http as http:
        http.get("/v1/models").raise_for_status()  # what a replica has not seen it does not trust
        assert http.post(CHAT, json=body, headers=headers).headers["x-trace-id"] == caller
    with Asking(stack, key=stack.make_key()).http as http:
        http.get("/v1/models").raise_for_status()
        linked = http.post(CHAT, json=body, headers=headers).headers["x-trace-id"]
    assert linked != caller
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"], linked, lambda tree: len(tree.roots) == 1, TRACE_S
    )
    assert [(link["trace_id"], link["span_id"]) for link in tree.roots[0].span.links] == [(caller, span_id)]


def test_a_retry_by_idempotency_key_runs_nothing(stack: UpProcess, asking: Asking, prompt: str) -> None:
    body = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]}
    headers = {"idempotency-key": uuid.uuid4().hex}
    first, second = (asking.http.post(CHAT, json=body, headers=headers) for _ in range(2))
    claimed, kept = "  gateway: claim state (client)\n", "  gateway: finish state (client)\n"
    tree = trace_client.wait_for(
        stack.client["SPILLWAY_TRACES_URL"],
        first.headers["x-trace-id"],
        lambda tree: kept in shape_of(tree) and "put cache" in shape_of(tree),
        TRACE_S,
    )
    assert shape_of(tree).startswith(CHATTED + claimed + ASKED_CACHE + ANSWERED)
    assert kept in shape_of(tree)
    assert tree.problems == []
    seen(stack, second.headers["x-trace-id"], CHATTED + claimed)
