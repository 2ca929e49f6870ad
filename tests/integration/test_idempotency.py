"""A request with an `Idempotency-Key` runs once, whoever sends it again, and each sender gets the one answer."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import redis

from support.platform import ADMIN_KEY, BOUND_S, MODEL, Platform, chat, eventually, platform
from support.valkey import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.valkey import Valkey

ROUTE = "/v1/chat/completions"


class Sender:
    """Sends one body under one key, from as many connections as a test wants."""

    def __init__(self, stack: Platform, body: dict[str, Any], key: str, api_key: str | None = None) -> None:
        self.stack = stack
        self.body = body
        self.key = key
        self.api_key = api_key
        self.before = (stack.last_attempt() or {"seq": 0})["seq"]

    def send(self, route: str = ROUTE, timeout_s: float = BOUND_S, **fields: Any) -> httpx2.Response:
        headers = {"idempotency-key": self.key, "x-request-timeout-ms": str(round(timeout_s * 1000))}
        with self.stack.http(self.api_key, **headers) as http:
            return http.post(route, json=self.body | fields)

    def runs(self) -> list[dict[str, Any]]:
        return [attempt for attempt in self.stack._attempts() if attempt["seq"] > self.before]

    def first_has_begun(self) -> dict[str, Any]:
        return eventually(lambda: next((run for run in self.runs() if run["prompt"]), None))


@pytest.fixture
def threads() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_sent_twice_runs_once_and_its_answer_is_replayed(
    stack: Platform, prompt: str, is_stream: bool
) -> None:
    sender = Sender(stack, chat(prompt, stream=is_stream) | {"temperature": 1}, prompt.replace(" ", "_"))
    first, second = sender.send(), sender.send()
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(sender.runs()) == 1


def test_generate_and_embeddings_are_replayed_as_well(stack: Platform, prompt: str) -> None:
    key = prompt.replace(" ", "_")
    for route, body in (
        ("/generate", {"prompt": prompt}),
        ("/v1/embeddings", {"model": "sim-embed", "input": prompt}),
    ):
        sender = Sender(stack, body, key)  # the same key: each route has its own
        first, second = sender.send(route), sender.send(route)
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.json() == second.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert len(sender.runs()) == 1


def test_the_same_key_with_another_body_is_refused_and_runs_nothing(stack: Platform, prompt: str) -> None:
    sender = Sender(stack, chat(prompt), prompt.replace(" ", "_"))
    assert sender.send().status_code == 200
    answer = sender.send(temperature=0.5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(sender.runs()) == 1


def test_a_key_is_its_tenants_own(stack: Platform, prompt: str) -> None:
    alice = Sender(stack, chat(prompt), prompt.replace(" ", "_"))
    bob = Sender(stack, alice.body, alice.key, stack.other_key)
    assert alice.send().status_code == 200
    answer = bob.send()
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    assert len(alice.runs()) == 2


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ключ"])
def test_a_key_that_is_none_is_a_400(stack: Platform, prompt: str, key: str) -> None:
    with stack.http() as http:
        answer = http.post(ROUTE, json=chat(prompt), headers={b"idempotency-key": key.encode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("is_stream", [False, True])
def test_duplicates_in_flight_wait_for_the_one_run(
    stack: Platform, prompt: str, is_stream: bool, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    sender = Sender(stack, chat(f"{prompt} [[sim ttft_ms=300 itl_ms=5]]", stream=is_stream), prompt.replace(" ", "_"))
    answers = [sent.result() for sent in [threads.submit(sender.send) for _ in range(20)]]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(sender.runs()) == 1


def test_the_owners_client_leaves_and_the_run_goes_on_for_those_who_wait(
    stack: Platform, prompt: str, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    sender = Sender(stack, chat(f"{prompt} [[sim ttft_ms=1500]]"), prompt.replace(" ", "_"))
    impatient = threads.submit(leave_after, sender, 1.0)
    sender.first_has_begun()
    answer = sender.send()
    impatient.result()
    assert answer.status_code == 200
    assert [run["cancelled"] for run in sender.runs()] == [None]


def test_a_streams_owner_leaves_and_the_run_goes_on_for_those_who_wait(
    stack: Platform, prompt: str, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    body = chat(f"{prompt} [[sim ttft_ms=50 itl_ms=50 tokens=60]]", stream=True)
    sender = Sender(stack, body, prompt.replace(" ", "_"))
    leaving = threads.submit(leave_after, sender, 0.6, silence_s=BOUND_S)
    sender.first_has_begun()
    answer = sender.send()
    leaving.result()
    assert answer.status_code == 200
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert [run["cancelled"] for run in sender.runs()] == [None]


@pytest.mark.parametrize("is_stream", [False, True])
def test_nobody_waits_so_the_run_is_cancelled_and_a_retry_runs_anew(
    stack: Platform, prompt: str, is_stream: bool
) -> None:
    body = chat(f"{prompt} [[sim ttft_ms=50 how=stall cut_after=1 times=1]]", stream=is_stream)
    sender = Sender(stack, body, prompt.replace(" ", "_"))
    leave_after(sender, 1)
    assert eventually(lambda: sender.runs()[0]["cancelled"] or sender.runs()[0]["finished"])
    answer = sender.send()
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    assert len(sender.runs()) == 2


def test_a_passing_failure_is_not_kept_and_a_lasting_one_is(stack: Platform, prompt: str) -> None:
    passing = Sender(stack, chat(f"{prompt} [[sim status=429 retry_after=60 times=1]]"), prompt.replace(" ", "_"))
    assert [passing.send().status_code, passing.send().status_code] == [429, 200]
    lasting = Sender(stack, chat(f"{prompt} lasting [[sim status=400]]"), "lasting" + passing.key)
    first, second = lasting.send(), lasting.send()
    assert (first.status_code, second.status_code) == (400, 400)
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert len(lasting.runs()) == 1


def test_a_stream_that_broke_off_is_not_kept(stack: Platform, prompt: str) -> None:
    sender = Sender(stack, chat(f"{prompt} [[sim cut_after=3 how=fin times=1]]", stream=True), prompt.replace(" ", "_"))
    with pytest.raises(httpx2.RemoteProtocolError):
        sender.send()
    answer = sender.send()
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert "idempotent-replayed" not in answer.headers


def test_a_duplicate_waits_no_longer_than_its_own_deadline(
    stack: Platform, prompt: str, threads: concurrent.futures.ThreadPoolExecutor
) -> None:
    sender = Sender(stack, chat(f"{prompt} [[sim ttft_ms=1500]]"), prompt.replace(" ", "_"))
    first = threads.submit(sender.send)
    sender.first_has_begun()
    assert sender.send(timeout_s=0.3).status_code == 504
    assert first.result().status_code == 200
    assert len(sender.runs()) == 1


def test_the_sdks_own_retry_is_safe(stack: Platform, prompt: str) -> None:
    key = {"Idempotency-Key": prompt.replace(" ", "_")}
    messages: Any = [{"role": "user", "content": prompt}]
    with stack.sdk() as sdk:
        first = sdk.chat.completions.create(model=MODEL, messages=messages, extra_headers=key)
        second = sdk.chat.completions.create(model=MODEL, messages=messages, extra_headers=key)
    assert first.id == second.id


@pytest.fixture
def own_state(tmp_path: Path) -> Iterator[Valkey]:
    with valkey("state", tmp_path) as server:
        yield server


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_while_the_state_store_is_gone_a_keyed_request_goes_through_and_says_so(
    own_state: Valkey, cache_store: Valkey, prompt: str, fault: str
) -> None:
    with platform(own_state.url, cache_store.url) as stack:
        sender = Sender(stack, chat(prompt, temperature=1), prompt.replace(" ", "_"))
        assert sender.send().status_code == 200
        if fault == "freeze":
            own_state.freeze()
        else:
            own_state.kill()
        for _ in range(3):
            answer = sender.send()
            assert (answer.status_code, answer.headers["x-idempotency"]) == (200, "unavailable")
        if fault == "freeze":
            own_state.thaw()
        else:
            own_state.bring_back()
        assert eventually(lambda: "idempotent-replayed" in sender.send().headers)


def test_neither_the_key_nor_prompt_nor_answer_is_in_the_store(
    stack: Platform, state_store: Valkey, prompt: str
) -> None:
    canary = "canary_7c21"
    sender = Sender(stack, chat(f"{canary} {prompt}"), canary)
    answer = sender.send()
    content = answer.json()["choices"][0]["message"]["content"].encode()
    with redis.Redis.from_url(state_store.url) as store:
        names = list(store.scan_iter("v1:{idempotency}:*"))
        records = [store.hgetall(name) for name in names if b":record:" in name]
    kept = b"".join([*names, *(part for record in records for pair in record.items() for part in pair)])
    assert any(b":record:" in name for name in names)
    assert canary.encode() not in kept
    assert content[:20] not in kept


def test_an_answer_too_large_to_keep_is_never_made_again(state_store: Valkey, cache_store: Valkey, prompt: str) -> None:
    with platform(state_store.url, cache_store.url, of_gateway={"idempotency_max_answer_bytes": 1024}) as stack:
        sender = Sender(stack, chat(f"{prompt} [[sim tokens=2000]]"), prompt.replace(" ", "_"))
        assert sender.send().status_code == 200
        answer = sender.send()
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_answer_not_kept")
        assert answer.headers["x-should-retry"] == "false"
        assert len(sender.runs()) == 1


def leave_after(sender: Sender, seconds: float, *, silence_s: float = 0) -> None:
    """Send, and hang up while the answer is not whole; with `silence_s`, once its stream has begun."""
    leaving = time.monotonic() + seconds
    with (
        contextlib.suppress(httpx2.ReadTimeout),
        sender.stack.http(**{"idempotency-key": sender.key}) as http,
        http.stream("POST", ROUTE, json=sender.body, timeout=silence_s or seconds) as response,
    ):
        for _ in response.iter_raw():
            if time.monotonic() > leaving:
                return
        pytest.fail("the answer was whole before its client could leave")


def test_what_one_keys_limits_refuse_is_no_answer_for_another_key_of_the_tenant(stack: Platform, prompt: str) -> None:
    with stack.http(ADMIN_KEY) as admin:
        small, large = (
            admin.post("/admin/keys", json={"tenant": "both", "name": "x", "limits": limits}).json()["key"]
            for limits in ({"tokens_per_minute": 10}, {})
        )
    body = chat(prompt, max_tokens=100)
    refused = Sender(stack, body, prompt.replace(" ", "_"), small).send()
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_too_large_for_limit")
    answered = Sender(stack, body, prompt.replace(" ", "_"), large).send()
    assert answered.status_code == 200
    assert "idempotent-replayed" not in answered.headers
