"""An upstream whose HTTP breaks in mid-body: aiohttp forgets its own timeout then (see test_http_client), we do not."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

import inference.app
import inference.settings
from common.identity import HopIdentity, HopSigner
from support.platform import BOUND_S, SECRETS, chat
from support.raw_server import Conversation, talking
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ask(script: Callable[[Conversation], None], *, is_stream: bool, timeout_ms: int = 1_000) -> tuple[int, bytes]:
    """What a caller of inference gets of an upstream that says what `script` does."""
    settings = inference.settings.Settings(
        upstream_base_url="http://unused", upstream_api_key="sk-x", hop_secret=SECRETS["inference_hop_secret"],
        event_gap_timeout_s=0.5, max_attempts=1,
    )  # fmt: skip
    signer = HopSigner(SECRETS["inference_hop_secret"], "inference")
    headers = {
        "authorization": signer.authorization(HopIdentity("alice", "key1")),
        "x-request-timeout-ms": str(timeout_ms),
    }
    body = b""
    with talking(script) as upstream:
        app = inference.app.create_app(settings.model_copy(update={"upstream_base_url": f"{upstream}/v1"}))
        with running(app) as url, httpx2.Client(timeout=BOUND_S, trust_env=False) as http:
            sent: dict[str, Any] = chat("hi", stream=is_stream)
            with http.stream("POST", f"{url}/v1/chat/completions", json=sent, headers=headers) as response:
                try:
                    for part in response.iter_raw():
                        body += part
                except httpx2.RemoteProtocolError:
                    pass
                return response.status_code, body


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_bad_chunk_in_mid_body_ends_in_time(is_stream: bool) -> None:
    pause = threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.say(HEAD % (b"text/event-stream" if is_stream else b"application/json"))
        conversation.say(chunk(EVENT))
        pause.wait(0.2)  # the client has read so far, and waits
        conversation.say(b"ZZ\r\n")
        conversation.stay_silent()

    status, body = ask(script, is_stream=is_stream)
    assert status == (200 if is_stream else 504)
    assert b"stream_" in body or not is_stream
    assert b"[DONE]" not in body


def test_a_line_that_never_ends_is_ended_at_its_cap() -> None:
    def script(conversation: Conversation) -> None:
        conversation.say(HEAD % b"text/event-stream" + chunk(EVENT))
        conversation.say(chunk(b"data: " + b"a" * (1024 * 1024 + 1)))
        conversation.stay_silent()

    status, body = ask(script, is_stream=True, timeout_ms=9_000)
    assert (status, b"stream_too_large" in body, len(body) < 4096) == (200, True, True)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_error_that_never_ends_is_not_read_to_its_end(is_stream: bool) -> None:
    said = 0

    def script(conversation: Conversation) -> None:
        nonlocal said
        conversation.say(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        while said < 2**30:  # until it hangs up
            conversation.say(chunk(b"x" * 65_536))
            said += 65_536

    assert ask(script, is_stream=is_stream, timeout_ms=9_000)[0] == 400
    assert said < 2**25  # what the sockets hold
