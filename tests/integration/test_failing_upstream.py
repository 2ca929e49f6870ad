"""The upstream refuses, stalls, lies and breaks off: what the caller gets, and how often the upstream was asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from support.platform import Platform, chat, eventually

if TYPE_CHECKING:
    from openai import OpenAI

pytestmark = pytest.mark.chaos
DONE = b"data: [DONE]"


def ask(http: httpx2.Client, prompt: str, **headers: str) -> httpx2.Response:
    return http.post("/v1/chat/completions", json=chat(prompt), headers=headers)


def raw_stream(http: httpx2.Client, prompt: str, **headers: str) -> tuple[httpx2.Response, bytes, bool]:
    """The response, all bytes of its body that came, and whether it ended as HTTP wants it."""
    body = b""
    with http.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True), headers=headers) as response:
        try:
            for part in response.iter_raw():
                body += part
        except httpx2.RemoteProtocolError:
            return response, body, False
    return response, body, True


def events_of(body: bytes) -> list[dict[str, Any]]:
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]
    return [json.loads(event) for event in events]


def attempts_of(stack: Platform, response: httpx2.Response) -> int:
    return len(stack.attempts(response.headers["x-request-id"]))


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_upstream_that_fails_twice_is_asked_three_times_and_answers(
    stack: Platform, http: httpx2.Client, prompt: str, is_stream: bool
) -> None:
    body = chat(f"{prompt} [[sim status=503 times=2]]", stream=is_stream)
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["x-upstream-attempts"]) == (200, "3")
    assert [attempt["status"] for attempt in stack.attempts(answer.headers["x-request-id"])] == [503, 503, 200]


@pytest.mark.parametrize(("status", "told"), [(503, 503), (502, 502), (504, 504), (429, 429)])
def test_an_upstream_that_always_fails_is_asked_three_times_although_the_sdk_would_ask_on(
    stack: Platform, prompt: str, status: int, told: int
) -> None:
    before = stack.last_attempt()
    # The SDK's default number of retries; only our header keeps it from multiplying our three by its three.
    with stack.sdk(max_retries=2) as sdk, pytest.raises(openai.APIStatusError) as failed:
        sdk.chat.completions.create(**chat(f"{prompt} [[sim status={status}]]"))
    response = failed.value.response
    assert response.status_code == told
    assert (response.headers["x-upstream-attempts"], response.headers["x-should-retry"]) == ("3", "false")
    after = stack.last_attempt()
    assert after is not None
    assert after["seq"] - (before["seq"] if before else 0) == attempts_of(stack, response) == 3


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_what_a_retry_would_not_mend_is_asked_once(
    stack: Platform, http: httpx2.Client, prompt: str, status: int
) -> None:
    answer = ask(http, f"{prompt} [[sim status={status}]]")
    assert answer.status_code == (502 if status == 500 else status)
    assert answer.headers["x-upstream-attempts"] == "1"
    assert attempts_of(stack, answer) == 1


def test_a_retry_after_that_does_not_fit_is_passed_on_at_once(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    answer = ask(http, f"{prompt} [[sim status=429 retry_after=99999]]")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "99999")
    assert attempts_of(stack, answer) == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_connection_that_breaks_before_the_answer_is_tried_again(
    stack: Platform, http: httpx2.Client, prompt: str, how: str, is_stream: bool
) -> None:
    body = chat(f"{prompt} [[sim how={how} times=2]]", stream=is_stream)
    answer = http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["x-upstream-attempts"]) == (200, "3")
    assert attempts_of(stack, answer) == 3


@pytest.mark.parametrize("how", ["fin", "rst", "html", "garbage", "end", "error"])
def test_a_stream_that_fails_before_its_first_event_is_a_status(http: httpx2.Client, prompt: str, how: str) -> None:
    response, body, ended_well = raw_stream(http, f"{prompt} [[sim how={how}]]")
    assert (response.status_code, ended_well) == (502, True)
    assert json.loads(body)["error"]["type"] == "upstream_error"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("how", ["fin", "rst", "garbage", "end", "error"])
def test_a_stream_that_breaks_off_says_so_and_ends_abnormally(
    stack: Platform, http: httpx2.Client, prompt: str, how: str
) -> None:
    response, body, ended_well = raw_stream(http, f"{prompt} [[sim how={how} cut_after=3 itl_ms=10]]")
    assert response.status_code == 200
    assert not ended_well
    assert DONE not in body
    *chunks, last = events_of(body)
    assert len(chunks) == 3
    assert set(last) == {"error"}
    assert last["error"]["message"]
    assert attempts_of(stack, response) == 1


@pytest.mark.parametrize("how", ["fin", "rst", "garbage", "end", "error"])
def test_the_sdk_takes_no_broken_stream_for_an_answer(sdk: OpenAI, prompt: str, how: str) -> None:
    stream = sdk.chat.completions.create(**chat(f"{prompt} [[sim how={how} cut_after=3 itl_ms=10]]", stream=True))
    with pytest.raises(openai.APIError):
        list(stream)


@pytest.mark.parametrize("how", ["fin", "rst", "garbage", "end", "html", "error"])
def test_an_answer_that_breaks_off_is_a_502(http: httpx2.Client, prompt: str, how: str) -> None:
    answer = ask(http, f"{prompt} [[sim how={how} cut_after=1]]")
    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "upstream_error")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("how", ["end", "garbage", "html", "error"])
def test_a_broken_answer_is_never_cached(stack: Platform, http: httpx2.Client, prompt: str, how: str) -> None:
    asked = f"{prompt} [[sim how={how} cut_after=1 times=1]]"
    assert ask(http, asked).status_code == 502
    answer = ask(http, asked)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")
    assert attempts_of(stack, answer) == 1


@pytest.mark.parametrize("status", [400, 503])
def test_an_error_is_never_cached(http: httpx2.Client, prompt: str, status: int) -> None:
    asked = f"{prompt} [[sim status={status} times=3]]"
    assert [ask(http, asked, **{"x-request-timeout-ms": "9000"}).headers["x-cache"] for _ in range(2)] == [
        "miss",
        "miss",
    ]


@pytest.mark.parametrize("cut", ["", " cut_after=0", " cut_after=1"])
def test_an_upstream_that_stalls_is_a_504_at_the_deadline(http: httpx2.Client, prompt: str, cut: str) -> None:
    answer = ask(http, f"{prompt} [[sim how=stall{cut}]]", **{"x-request-timeout-ms": "700"})
    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert answer.elapsed.total_seconds() < 1.2


@pytest.mark.parametrize("cut", ["", " cut_after=0"])
def test_a_stream_that_never_starts_is_a_504_at_the_deadline(http: httpx2.Client, prompt: str, cut: str) -> None:
    response, body, _ = raw_stream(http, f"{prompt} [[sim how=stall{cut}]]", **{"x-request-timeout-ms": "700"})
    assert response.status_code == 504
    assert json.loads(body)["error"]["type"] == "timeout_error"


def test_a_stream_that_stalls_says_so_at_the_deadline(http: httpx2.Client, prompt: str) -> None:
    asked = f"{prompt} [[sim how=stall cut_after=3]]"
    response, body, ended_well = raw_stream(http, asked, **{"x-request-timeout-ms": "700"})
    assert (response.status_code, ended_well) == (200, False)
    assert events_of(body)[-1]["error"]["type"] == "timeout_error"
    assert len(events_of(body)) == 4


def test_a_stream_that_outlives_its_deadline_is_ended_there(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    asked = f"{prompt} [[sim itl_ms=50 tokens=1000]]"
    response, body, ended_well = raw_stream(http, asked, **{"x-request-timeout-ms": "700"})
    assert not ended_well
    assert events_of(body)[-1]["error"]["type"] == "timeout_error"
    request_id = response.headers["x-request-id"]
    eventually(lambda: [attempt for attempt in stack.attempts(request_id) if attempt["cancelled"]])


def test_the_sdks_own_read_timeout_is_the_deadline_of_a_whole_answer(stack: Platform, prompt: str) -> None:
    with stack.sdk(timeout=0.7) as sdk, pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
        sdk.chat.completions.create(**chat(f"{prompt} [[sim how=stall]]"))

    def cancelled() -> dict[str, Any] | None:
        attempt = stack.last_attempt()
        return attempt if attempt and attempt["cancelled"] else None

    assert eventually(cancelled)["cancelled"] - eventually(cancelled)["received"] < 1.2


@pytest.mark.parametrize("timeout_ms", ["0", "-5", "nan", "soon", ""])
def test_a_deadline_that_is_none_is_refused(http: httpx2.Client, prompt: str, timeout_ms: str) -> None:
    answer = ask(http, prompt, **{"x-request-timeout-ms": timeout_ms})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-timeout-ms")


def test_nothing_is_started_for_a_caller_who_is_about_to_leave(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    answer = ask(http, prompt, **{"x-request-timeout-ms": "200"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert attempts_of(stack, answer) == 0
