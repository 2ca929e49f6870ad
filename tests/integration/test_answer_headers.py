"""Whatever the gateway answers names the request and its trace, and says how long it took."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from support.platform import ADMIN_KEY, BOUND_S, Platform, chat, eventually, platform
from support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

    from support.valkey import Valkey

CHAT = "/v1/chat/completions"
TOTAL = re.compile(r"(?:[a-z]+;dur=\d+\.\d\d, )*total;dur=\d+\.\d\d")


def check(headers: Mapping[str, str]) -> None:
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-trace-id"])
    assert TOTAL.fullmatch(headers["server-timing"]), headers["server-timing"]


@pytest.mark.parametrize(
    ("asked", "body", "further", "status"),
    [
        (("POST", CHAT), b'{"model": "sim-small", "messages": [{"role": "user", "content": "hi"}]}', {}, 200),
        (("POST", CHAT), b"{", {}, 400),
        (("POST", CHAT), b'{"model": 1}', {}, 400),
        (("POST", CHAT), b"{}", {"authorization": "Bearer nobody"}, 401),
        (("POST", CHAT), b"{}", {"content-type": "text/plain"}, 415),
        (("POST", CHAT), b"{}", {"x-request-timeout-ms": "never"}, 400),
        (("POST", CHAT), b"[[sim status=503]]", {}, 400),
        (("GET", CHAT), b"", {}, 405),
        (("GET", "/v1/nothing"), b"", {}, 404),
        (("GET", "/v1/models"), b"", {}, 200),
        (("GET", "/v1/jobs/job_00000000000000000000000000000000"), b"", {}, 404),
        (("POST", "/v1/jobs"), b"{}", {}, 400),
        (("GET", "/admin/keys"), b"", {}, 403),
        (("GET", "/admin/keys"), b"", {"authorization": f"Bearer {ADMIN_KEY}"}, 200),
    ],
)
def test_an_answer_names_its_trace_and_its_time(
    http: httpx2.Client, asked: tuple[str, str], body: bytes, further: dict[str, str], status: int
) -> None:
    headers = {"content-type": "application/json", **further}
    answer = http.request(*asked, content=body or None, headers=headers)
    assert answer.status_code == status, answer.text
    check(answer.headers)


@pytest.mark.parametrize("directive", ["[[sim status=503]]", "[[sim how=garbage]]", "[[sim cut_after=2 how=fin]]"])
@pytest.mark.parametrize("stream", [False, True])
def test_so_does_the_answer_to_a_call_that_failed(
    http: httpx2.Client, prompt: str, directive: str, stream: bool
) -> None:
    with http.stream("POST", CHAT, json=chat(f"{prompt} {directive}", stream=stream)) as answer:
        check(answer.headers)


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: gateway\r\n\r\n"]
)
def test_so_does_the_answer_to_what_is_no_request(stack: Platform, request_: bytes) -> None:
    url = urlsplit(stack.gateway)
    with socket.create_connection((url.hostname, url.port), BOUND_S) as wire:
        wire.sendall(request_)
        head = b"".join(iter(lambda: wire.recv(65_536), b"")).partition(b"\r\n\r\n")[0].decode()
    check(dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:]))


def test_so_does_the_answer_to_what_is_refused_at_the_door(state_store: Valkey, cache_store: Valkey) -> None:
    with (
        platform(state_store.url, cache_store.url, of_gateway={"max_body_bytes_in_flight": 1024 * 1024}) as stack,
        contextlib.closing(Wire(stack, chat("[[sim ttft_ms=60000]]" + "x" * 600_000))),
        stack.http() as http,
    ):
        eventually(stack.last_attempt)
        answer = http.post(CHAT, json=chat("x" * 600_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    check(answer.headers)


def test_a_hit_a_miss_and_a_stream_name_their_stages(http: httpx2.Client, prompt: str) -> None:
    def stages(answer: httpx2.Response) -> list[str]:
        check(answer.headers)
        return [stage.partition(";")[0] for stage in answer.headers["server-timing"].split(", ")]

    assert stages(http.post(CHAT, json=chat(prompt))) == ["auth", "cache", "upstream", "total"]
    eventually(lambda: http.post(CHAT, json=chat(prompt)).headers["x-cache"] == "hit")
    assert stages(http.post(CHAT, json=chat(prompt))) == ["auth", "cache", "total"]
    assert stages(http.post(CHAT, json=chat(f"{prompt} again", stream=True))) == ["auth", "cache", "upstream", "total"]
