"""Whatever the gateway answers names the request and its trace, and says how long it took."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from support.platform import ADMIN_KEY, BOUND_S, Platform, chat, eventually, platform
from support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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


OURS = {
    "age", "idempotent-replayed", "location", "preference-applied", "retry-after", "server-timing", "www-authenticate",
    "x-cache", "x-idempotency", "x-request-id", "x-should-retry", "x-spillway-decision", "x-spillway-model",
    "x-spillway-target", "x-trace-id", "x-upstream-attempts",
}  # fmt: skip
ALWAYS = {"x-request-id", "x-trace-id", "server-timing"}
LIMITS = {f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")}
OF_A_KEY = {*ALWAYS, "x-spillway-decision"}
LIMITED = OF_A_KEY | LIMITS
MODELS_OWN = {"x-cache", "x-upstream-attempts"}
FAILED = LIMITED | MODELS_OWN | {"x-should-retry"}
NOBODY = "Bearer nobody"
JOB = "/v1/jobs/job_00000000000000000000000000000000"


def shown(answer: httpx2.Response) -> set[str]:
    return {name for name in answer.headers if name in OURS or name.startswith("x-ratelimit-")}


@pytest.fixture(scope="module")
def limited(stack: Platform) -> Iterator[httpx2.Client]:
    """A client whose key has limits, which are far away."""
    limits = {"requests_per_minute": 10_000, "tokens_per_minute": 10_000_000}
    with stack.http(ADMIN_KEY) as admin:
        key = admin.post("/admin/keys", json={"tenant": "headers", "name": "x", "limits": limits}).json()["key"]
    with stack.http(key) as client:
        yield client


BODIES: dict[str, Callable[[str], dict[str, Any]]] = {
    CHAT: chat,
    "/v1/embeddings": lambda prompt: {"model": "sim-embed", "input": prompt},
    "/generate": lambda prompt: {"prompt": prompt},
}


@pytest.mark.parametrize("path", BODIES)
def test_a_model_answer_shows_what_the_readme_says(limited: httpx2.Client, prompt: str, path: str) -> None:
    miss = limited.post(path, json=BODIES[path](prompt))
    assert shown(miss) == LIMITED | MODELS_OWN | {"x-spillway-model", "x-spillway-target"}
    assert (miss.headers["x-cache"], miss.headers["x-upstream-attempts"]) == ("miss", "1")
    hit = eventually(lambda: _hit(limited.post(path, json=BODIES[path](prompt))))
    assert shown(hit) == LIMITED | MODELS_OWN | {"age"}
    assert hit.headers["x-upstream-attempts"] == "0"
    for asked in ({"prefer": "respond-async"}, {"prefer": "respond-async", "idempotency-key": "of-the-headers" + path}):
        job = limited.post(path, json=BODIES[path](prompt), headers=asked)
        assert (job.status_code, shown(job)) == (202, LIMITED | {"location", "retry-after", "preference-applied"})
        ended = limited.get(job.headers["location"], params={"wait": BOUND_S})
        assert (ended.json()["state"], shown(ended)) == ("succeeded", OF_A_KEY)
    keyed = [limited.post(path, json=BODIES[path](prompt), headers={"idempotency-key": "one"}) for _ in range(2)]
    assert shown(keyed[1]) - shown(keyed[0]) == {"idempotent-replayed"}


def _hit(answer: httpx2.Response) -> httpx2.Response | None:
    return answer if answer.headers.get("x-cache") == "hit" else None


@pytest.mark.parametrize(
    ("asked", "body", "further", "status", "expected"),
    [
        (("GET", "/v1/models"), b"", {}, 200, LIMITED),
        (("GET", "/v1/models/sim-small"), b"", {}, 200, LIMITED),
        (("GET", "/v1/models/none"), b"", {}, 404, LIMITED | {"x-should-retry"}),
        (("GET", "/v1/models"), b"", {"authorization": NOBODY}, 401, OF_A_KEY | {"www-authenticate"}),
        (("POST", CHAT), b"{}", {"authorization": NOBODY}, 401, OF_A_KEY | {"www-authenticate"}),
        (("POST", CHAT), b"{", {}, 400, OF_A_KEY),
        (("POST", CHAT), b"{}", {"content-type": "text/plain"}, 415, OF_A_KEY),
        (("POST", CHAT), b"a" * (4 * 2**20 + 1), {}, 413, OF_A_KEY),
        (("PUT", CHAT), b"{}", {}, 405, OF_A_KEY),
        (("GET", "/v1/responses"), b"", {}, 404, OF_A_KEY),
        (("POST", CHAT), b"sim status=503", {}, 503, FAILED | {"retry-after"}),
        (("POST", CHAT), b"sim status=429", {}, 429, FAILED),
        (("POST", CHAT), b"sim ttft_ms=9000", {"x-request-timeout-ms": "400"}, 504, FAILED),
        (("GET", "/v1/jobs"), b"", {}, 200, OF_A_KEY),
        (("GET", JOB), b"", {}, 404, OF_A_KEY),
        (("DELETE", JOB), b"", {}, 404, OF_A_KEY),
        (("POST", "/v1/jobs"), b"{}", {}, 400, OF_A_KEY),
        (("GET", "/admin/keys"), b"", {}, 403, OF_A_KEY),
        (("GET", "/admin/keys"), b"", {"authorization": f"Bearer {ADMIN_KEY}"}, 200, ALWAYS),
        (("GET", "/admin/jobs"), b"", {"authorization": f"Bearer {ADMIN_KEY}"}, 200, ALWAYS),
        (("GET", "/health"), b"", {}, 200, set()),
        (("HEAD", "/readyz"), b"", {}, 200, set()),
    ],
)
def test_any_other_answer_shows_what_the_readme_says(  # noqa: PLR0913, PLR0917  # a row
    limited: httpx2.Client,
    prompt: str,
    asked: tuple[str, str],
    body: bytes,
    further: dict[str, str],
    status: int,
    expected: set[str],
) -> None:
    if body.startswith(b"sim "):
        body = json.dumps(chat(f"{prompt} [[{body.decode()}]]")).encode()
    answer = limited.request(*asked, content=body or None, headers={"content-type": "application/json", **further})
    assert (answer.status_code, shown(answer)) == (status, expected), answer.text
