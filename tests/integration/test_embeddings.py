"""Embeddings through the platform: joined on the way to the upstream, answered as if they had gone alone."""

from __future__ import annotations

import base64
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from simulator.embeddings import vector
from support.platform import Platform, chat, eventually

if TYPE_CHECKING:
    import httpx2
    from openai import OpenAI

AT_ONCE = 24


def seq_of(stack: Platform) -> int:
    attempt = stack.last_attempt()
    return attempt["seq"] if attempt else 0


def embed(http: httpx2.Client, given: Any, **fields: Any) -> httpx2.Response:
    body = {"model": "sim-small", "input": given, "dimensions": 8, **fields}
    return http.post("/v1/embeddings", json=body, headers={"cache-control": "no-store"})


def vectors(answer: httpx2.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


def expected(*texts: str) -> list[list[float]]:
    return [vector(text.encode(), 8).tolist() for text in texts]


def test_concurrent_requests_of_two_tenants_cost_fewer_calls_and_each_gets_its_own(
    stack: Platform, prompt: str
) -> None:
    before = seq_of(stack)
    texts = [[f"{prompt} {number}", f"{number} again"][: 1 + number % 2] for number in range(AT_ONCE)]
    with stack.http() as alice, stack.http(stack.other_key) as bob, ThreadPoolExecutor(AT_ONCE) as clients:
        # The first is slow, so that the others find a call under way.
        slow = clients.submit(embed, alice, f"{prompt} [[sim ttft_ms=300]]")
        eventually(lambda: seq_of(stack) > before)
        asked = [(alice if number % 2 else bob, one) for number, one in enumerate(texts)]
        answers = list(clients.map(lambda ask: embed(*ask), asked))
        assert slow.result().status_code == 200
    for one, answer in zip(texts, answers, strict=True):
        assert vectors(answer) == expected(*one)
        assert answer.json()["model"] == "sim-small"
        assert answer.json()["usage"]["prompt_tokens"] > 0
    calls = stack.attempts_after(before)
    assert len(calls) < AT_ONCE  # how many fewer depends on how close together they come, and on this machine


def test_one_that_is_refused_fails_alone(stack: Platform, prompt: str) -> None:
    before = seq_of(stack)
    with stack.http() as http, ThreadPoolExecutor(8) as clients:
        slow = clients.submit(embed, http, f"{prompt} [[sim ttft_ms=300]]")
        eventually(lambda: seq_of(stack) > before)
        good = [clients.submit(embed, http, f"{prompt} {number}") for number in range(4)]
        bad = clients.submit(embed, http, f"{prompt} [[sim status=400]]")
        for number, answer in enumerate(good):
            assert vectors(answer.result()) == expected(f"{prompt} {number}")
        refused = bad.result()
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "simulated_failure")
        assert slow.result().status_code == 200


def test_the_sdks_packed_floats_come_out_whole(sdk: OpenAI, http: httpx2.Client, prompt: str) -> None:
    answer = sdk.embeddings.create(model="sim-small", input=[prompt, "b"], dimensions=8)
    assert [array("f", item.embedding).tolist() for item in answer.data] == expected(prompt, "b")
    packed = embed(http, prompt, encoding_format="base64").json()["data"][0]["embedding"]
    assert array("f", base64.b64decode(packed)).tolist() == expected(prompt)[0]


@pytest.mark.parametrize("given", [[], [""], ["a", 1], None])
def test_what_is_no_input_is_the_upstreams_to_refuse_or_ours(http: httpx2.Client, given: Any) -> None:
    assert embed(http, given).status_code == 400


def test_chat_is_never_joined(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    before = seq_of(stack)
    with ThreadPoolExecutor(4) as clients:
        answers = list(
            clients.map(lambda number: http.post("/v1/chat/completions", json=chat(f"{prompt} {number}")), range(4))
        )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(stack.attempts_after(before)) == 4
