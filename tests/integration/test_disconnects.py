"""A client that leaves cancels the upstream's work within half a second, streamed or not."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from support.platform import BOUND_S, Platform, chat, eventually
from support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.chaos, pytest.mark.measured]
CANCELLED_WITHIN_S = 0.5


def newest(stack: Platform, prompt_seq: int, is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The attempt after `prompt_seq`, as soon as it is so."""

    def look() -> dict[str, Any] | None:
        attempt = stack.last_attempt()
        return attempt if attempt and attempt["seq"] > prompt_seq and is_so(attempt) else None

    return eventually(look)


def seq_of(stack: Platform) -> int:
    attempt = stack.last_attempt()
    return attempt["seq"] if attempt else 0


@pytest.mark.parametrize("leave", [Wire.close, Wire.reset])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_before_the_answer_cancels_it(
    stack: Platform, prompt: str, leave: Callable[[Wire], None], is_stream: bool
) -> None:
    before = seq_of(stack)
    wire = Wire(stack, chat(f"{prompt} [[sim ttft_ms=60000]]", stream=is_stream))
    newest(stack, before, lambda attempt: attempt["prompt"])
    left = time.monotonic()
    leave(wire)
    attempt = newest(stack, before, lambda attempt: attempt["cancelled"])
    assert attempt["cancelled"] - left < CANCELLED_WITHIN_S
    assert attempt["status"] is None
    assert seq_of(stack) == before + 1  # nobody retried it


@pytest.mark.parametrize("leave", [Wire.close, Wire.reset])
def test_a_client_that_leaves_in_mid_stream_cancels_the_rest(
    stack: Platform, prompt: str, leave: Callable[[Wire], None]
) -> None:
    before = seq_of(stack)
    wire = Wire(stack, chat(f"{prompt} [[sim itl_ms=20 tokens=10000]]", stream=True))
    wire.read_until(b"data: ")
    left = time.monotonic()
    leave(wire)
    attempt = newest(stack, before, lambda attempt: attempt["cancelled"])
    assert attempt["cancelled"] - left < CANCELLED_WITHIN_S
    assert attempt["finished"] is None


def test_a_client_that_leaves_a_silent_stream_cancels_it(stack: Platform, prompt: str) -> None:
    before = seq_of(stack)
    wire = Wire(stack, chat(f"{prompt} [[sim how=stall cut_after=1]]", stream=True))
    wire.read_until(b"data: ")
    left = time.monotonic()
    wire.close()
    attempt = newest(stack, before, lambda attempt: attempt["cancelled"] or attempt["finished"])
    assert (attempt["cancelled"] or attempt["finished"]) - left < CANCELLED_WITHIN_S


def test_a_client_that_leaves_while_it_is_being_retried_ends_the_retries(stack: Platform, prompt: str) -> None:
    before = seq_of(stack)
    wire = Wire(stack, chat(f"{prompt} [[sim status=503 retry_after=2 times=1]]"))
    newest(stack, before, lambda attempt: attempt["finished"])
    wire.close()
    with stack.http() as http:  # long after the retry would have been made
        http.post("/v1/chat/completions", json=chat(f"{prompt} again [[sim ttft_ms=2500]]"))
    assert seq_of(stack) == before + 2


def test_a_client_that_leaves_before_its_body_is_whole_reaches_no_upstream(stack: Platform, prompt: str) -> None:
    before = seq_of(stack)
    url = urlsplit(stack.gateway)
    with socket.create_connection((url.hostname, url.port), BOUND_S) as half:
        half.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: 1000\r\n\r\n{" % stack.key.encode()
        )
    with stack.http() as http:
        assert http.post("/v1/chat/completions", json=chat(prompt)).status_code == 200
    assert seq_of(stack) == before + 1
