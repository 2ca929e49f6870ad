"""What inference tells the gateway of an answer's usage, on the wire between the two."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.identity import HopIdentity, HopSigner
from common.usage import HEADER, Usage, take_comment
from support.platform import BOUND_S, SECRETS, Platform, chat, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

DONE = b"data: [DONE]\n\n"


@pytest.fixture
def inference(stack: Platform) -> Iterator[httpx2.Client]:
    """A client that speaks to inference as the gateway does."""
    signer = HopSigner(SECRETS["inference_hop_secret"], "inference")
    headers = {"authorization": signer.authorization(HopIdentity("alice", "key1"))}
    with httpx2.Client(base_url=f"{stack.inference}/v1", headers=headers, timeout=BOUND_S, trust_env=False) as client:
        yield client


def reported(answer: httpx2.Response) -> Usage | None:
    return Usage.from_json(answer.headers.get(HEADER))


def streamed(inference: httpx2.Client, body: dict[str, Any]) -> bytes:
    received = b""
    with inference.stream("POST", "/chat/completions", json=body | {"stream": True}) as response:
        assert HEADER not in response.headers
        try:
            for part in response.iter_raw():
                received += part
        except httpx2.RemoteProtocolError:
            pass
    return received


def test_a_whole_answer_says_in_a_header_what_it_used(inference: httpx2.Client, prompt: str) -> None:
    answer = inference.post("/chat/completions", json=chat(f"{prompt} [[sim tokens=7]]"))
    usage = answer.json()["usage"]
    told = reported(answer)
    assert told is not None
    assert (told.input_tokens, told.output_tokens, told.is_estimated) == (usage["prompt_tokens"], 7, False)


def test_an_upstream_that_tells_no_usage_is_estimated(inference: httpx2.Client, prompt: str) -> None:
    answer = inference.post("/chat/completions", json=chat(f"{prompt} [[sim usage=0]]"))
    told = reported(answer)
    assert told is not None
    assert told.is_estimated
    assert told.input_tokens > 0
    assert told.output_tokens > 0
    _, told = take_comment(streamed(inference, chat(f"{prompt} [[sim usage=0 tokens=7]]")))
    assert told is not None
    assert (told.output_tokens, told.is_estimated) == (7, True)


def test_a_stream_says_it_in_a_comment_before_it_is_done(inference: httpx2.Client, prompt: str) -> None:
    received = streamed(inference, chat(f"{prompt} [[sim tokens=7]]"))
    shown, told = take_comment(received)
    assert told is not None
    assert (told.output_tokens, told.is_estimated) == (7, False)
    assert received.endswith(told.to_comment() + DONE)
    assert b"usage" not in shown


@pytest.mark.parametrize("how", ["fin", "rst", "garbage", "end", "done", "error"])
def test_a_stream_that_breaks_says_it_behind_its_error(inference: httpx2.Client, prompt: str, how: str) -> None:
    received = streamed(inference, chat(f"{prompt} [[sim tokens=7 how={how} cut_after=4 itl_ms=5]]"))
    shown, told = take_comment(received)
    assert told is not None
    assert (told.output_tokens, told.is_estimated) == (4 + (how == "error"), True)
    assert received.endswith(told.to_comment())
    assert b'"error"' in shown.rpartition(b"data: ")[2]
    assert DONE not in shown


def test_an_error_says_what_its_attempts_used(inference: httpx2.Client, prompt: str) -> None:
    refused = inference.post("/chat/completions", json=chat(f"{prompt} [[sim status=400]]"))
    assert (refused.status_code, reported(refused)) == (400, None)
    late = inference.post(
        "/chat/completions", json=chat(f"{prompt} [[sim how=stall]]"), headers={"x-request-timeout-ms": "500"}
    )
    told = reported(late)
    assert (late.status_code, told is not None and told.is_estimated) == (504, True)


def test_who_asks_for_usage_sees_it_and_who_does_not_sees_none(http: httpx2.Client, prompt: str) -> None:
    plain = http.post("/v1/chat/completions", json=chat(prompt, stream=True)).content
    assert b"usage" not in plain
    asked = chat(prompt, stream=True, stream_options={"include_usage": True})
    content = http.post("/v1/chat/completions", json=asked).content
    events = [json.loads(event[6:]) for event in content.split(b"\n\n") if event and b"[DONE]" not in event]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 20
    assert all(event["usage"] is None for event in events[:-1])
    assert HEADER.encode() not in plain + content


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_log_line_says_what_was_used_of_whom(
    inference: httpx2.Client, prompt: str, caplog: pytest.LogCaptureFixture, is_stream: bool
) -> None:
    caplog.set_level(logging.INFO, "access")
    inference.headers["x-request-id"] = "req_of_this_test"
    inference.post("/chat/completions", json=chat(f"{prompt} [[sim tokens=7]]", stream=is_stream))

    def line() -> dict[str, Any] | None:
        lines = [vars(record) for record in caplog.records if vars(record).get("request_id") == "req_of_this_test"]
        return lines[0] if lines else None

    found = eventually(line)
    assert {name: found[name] for name in ("output_tokens", "cost_usd", "attempts", "usage_is_estimated")} == {
        "output_tokens": 7,
        "cost_usd": None,
        "attempts": 1,
        "usage_is_estimated": False,
    }
    assert found["target"]
    assert found["input_tokens"] > 0
