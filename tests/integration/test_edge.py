"""A real Traefik with the configuration that Compose gives it: what it lets in, and that streams pass untouched."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from openai import OpenAI

from devstack.otlp_sink import Sink
from support.platform import ADMIN_KEY, BOUND_S, Platform, chat, eventually
from support.raw_server import Conversation, talking
from support.replicas import replicas
from support.server import running
from support.traefik import BINARY, WHY_SKIPPED, Edge, edge, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(not BINARY, reason=WHY_SKIPPED)
STREAMS = 8


@pytest.fixture(scope="module")
def front(stack: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Traefik before the platform; a test that stops or reconfigures it starts its own."""
    with edge(tmp_path_factory.mktemp("edge"), [stack.gateway]) as started:
        yield started


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A gateway that hides nothing: it answers with the head of the request that reached it."""
    while (await receive()).get("more_body"):
        pass
    seen = {
        "method": scope["method"],
        "path": scope["raw_path"].decode(),
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
    }
    body = json.dumps(seen).encode().ljust(4096)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Traefik before a server that tells what reached it."""
    with running(echo, lifespan="off") as url, edge(tmp_path_factory.mktemp("mirror"), [url]) as started:
        yield started


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("POST", 308), ("DELETE", 308)])
def test_plain_http_is_sent_to_https(front: Edge, method: str, status: int) -> None:
    url = f"http://127.0.0.1:{front.http_port}/v1/models?limit=1"
    answer = httpx2.request(method, url, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (status, f"{front.url}/v1/models?limit=1")


def test_tls_before_1_2_is_refused(front: Edge) -> None:
    with socket.create_connection(("127.0.0.1", front.https_port), BOUND_S) as plain:
        context = unchecked()
        with context.wrap_socket(plain) as wire:
            assert wire.version() == "TLSv1.3"
    with socket.create_connection(("127.0.0.1", front.https_port), BOUND_S) as plain:
        # A ClientHello of TLS 1.1, by hand: Python no longer makes one.
        hello = b"\x03\x02" + bytes(32) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f" + b"\x01\x00"
        handshake = b"\x01" + len(hello).to_bytes(3, "big") + hello
        plain.sendall(b"\x16\x03\x01" + len(handshake).to_bytes(2, "big") + handshake)
        assert plain.recv(7) == b"\x15\x03\x01\x00\x02\x02\x46"  # an alert, fatal: protocol_version


def test_a_certificate_of_ones_own_is_taken_up_while_it_runs(stack: Platform, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    trusting = ssl.create_default_context(cadata=pem.decode())
    with edge(tmp_path, [stack.gateway]) as front:
        (front.dynamic / "tls.crt").write_bytes(pem)
        (front.dynamic / "tls.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        pair = {"certFile": str(front.dynamic / "tls.crt"), "keyFile": str(front.dynamic / "tls.key")}
        (front.dynamic / "tls.yaml").write_text(json.dumps({"tls": {"certificates": [pair]}}))

        def is_trusted() -> bool:
            try:
                url = f"https://localhost:{front.https_port}/health"
                return httpx2.get(url, verify=trusting, trust_env=False).is_success
            except httpx2.ConnectError:
                return False

        assert eventually(is_trusted)


# --- what is let in ---------------------------------------------------------------------------------------------------


def test_the_official_sdk_works_through_the_edge(stack: Platform, front: Edge, prompt: str) -> None:
    with (
        httpx2.Client(verify=unchecked(), trust_env=False) as http,
        OpenAI(base_url=f"{front.url}/v1", api_key=stack.key, http_client=http, max_retries=0) as sdk,
    ):
        messages: Any = chat(prompt)["messages"]
        assert sdk.chat.completions.create(model="sim-small", messages=messages).choices[0].message.content
        with sdk.chat.completions.create(model="sim-small", messages=messages, stream=True) as stream:
            assert [chunk for chunk in stream][-1].choices[0].finish_reason == "stop"  # noqa: C416  # all of it
        assert "sim-small" in [model.id for model in sdk.models.list()]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/keys"),
        ("GET", "/admin"),
        ("GET", "//admin/keys"),
        ("GET", "/v1/../admin/keys"),
        ("GET", "/v1/%2e%2e/admin/keys"),
        ("GET", "/readyz"),
        ("GET", "/livez"),
        ("GET", "/openapi.json"),
        ("GET", "/generate"),
        ("GET", "/"),
        ("GET", "/dashboard/"),
        ("GET", "/api/rawdata"),
        ("GET", "/metrics"),
        ("GET", "/ping"),
        ("POST", "/health"),
        ("PUT", "/v1/jobs/one"),
        ("PATCH", "/v1/models"),
        ("DELETE", "/v1/models/sim-small"),
        ("OPTIONS", "/v1/chat/completions"),
        ("TRACE", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("NONSENSE", "/v1/models"),
    ],
)
def test_other_methods_and_paths_never_reach_the_gateway(front: Edge, method: str, path: str) -> None:
    status, headers = asked(front, f"{method} {path} HTTP/1.1", f"Authorization: Bearer {ADMIN_KEY}")
    assert status == 404
    assert "x-request-id" not in headers  # which the gateway gives to each of its own


def test_an_upgrade_is_refused_before_the_gateway(front: Edge) -> None:
    status, headers = asked(front, "GET /v1/models HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")
    assert (status, "x-request-id" in headers) == (404, False)


def test_a_tunnel_is_refused(front: Edge) -> None:
    assert asked(front, "CONNECT example.com:443 HTTP/1.1")[0] in {400, 404}


@pytest.mark.parametrize("path", ["/v1/models/a%2Fb", "/v1/nothing"])
def test_what_is_unknown_below_v1_is_answered_by_the_gateway_in_its_one_shape(
    stack: Platform, front: Edge, path: str
) -> None:
    with front.client(stack.key) as http:
        answer = http.get(path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("encoded", ["%5C", "%00", "%3B", "%25", "%3F", "%23"])
def test_a_path_that_others_would_read_otherwise_is_refused(front: Edge, encoded: str) -> None:
    assert asked(front, f"GET /v1/models/a{encoded}b HTTP/1.1")[0] == 400


def test_a_head_beyond_the_bound_is_refused(front: Edge) -> None:
    status, headers = asked(front, "GET /v1/models HTTP/1.1", *(f"X-Fill-{n}: {'a' * 1000}" for n in range(40)))
    assert (status, "x-request-id" in headers) == (431, False)


def asked(front: Edge, line: str, *headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request that no client library would send."""
    with (
        socket.create_connection(("127.0.0.1", front.https_port), BOUND_S) as plain,
        unchecked().wrap_socket(plain) as wire,
    ):
        wire.sendall("\r\n".join([line, "Host: localhost", *headers, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head and (part := wire.recv(65_536)):
            head += part
    status, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(status.split()[1]), {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}


# --- what the gateway sees --------------------------------------------------------------------------------------------


def test_what_a_client_says_of_proxies_before_it_is_thrown_away(mirror: Edge) -> None:
    with mirror.client(
        **{"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "http", "x-real-ip": "203.0.113.7"}
    ) as http:
        seen = http.get("/v1/models").json()["headers"]
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"], seen["x-real-ip"]) == (
        "127.0.0.1",
        "https",
        "127.0.0.1",
    )


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X-Forwarded_For", "X_Real_Ip"])
def test_a_header_that_is_read_as_one_of_these_is_refused(mirror: Edge, name: str) -> None:
    with mirror.client(**{name: "203.0.113.7"}) as http:
        assert http.get("/v1/models").status_code == 400


def test_a_body_and_a_head_pass_as_they_are_and_no_answer_is_compressed(mirror: Edge) -> None:
    with mirror.client("a-key", **{"accept-encoding": "gzip, br, zstd"}) as http:
        answer = http.post("/v1/jobs?wait=1", json={"x": "y" * 100_000})
    seen = answer.json()
    assert (seen["method"], seen["path"]) == ("POST", "/v1/jobs")
    assert seen["headers"]["authorization"] == "Bearer a-key"
    assert seen["headers"]["accept-encoding"] == "gzip, br, zstd"
    assert seen["headers"]["content-length"] == str(len(answer.request.content))
    assert "content-encoding" not in answer.headers
    assert "server" not in answer.headers or "raefik" not in answer.headers["server"]


def test_nothing_is_tried_twice(tmp_path: Path) -> None:
    posts: list[bytes] = []

    def break_off(conversation: Conversation) -> None:
        if conversation.request.startswith(b"POST"):
            posts.append(conversation.request)
            conversation.reset()
        else:
            conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with talking(break_off) as url, edge(tmp_path, [url, url + "/"]) as front, front.client() as http:
        assert http.post("/generate", json={"prompt": "once"}).status_code == 502
    assert len(posts) == 1


# --- streams ----------------------------------------------------------------------------------------------------------


def test_the_first_event_is_not_held_back(stack: Platform, front: Edge, prompt: str) -> None:
    body = chat(f"{prompt} [[sim how=stall cut_after=1]]", stream=True)
    with front.client(stack.key) as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        first = next(answer.iter_raw())  # the upstream says nothing more: whoever collected would wait for ever
        assert first.startswith(b"data: ")
        assert attempt_of(stack, answer)["finished"] is None


@pytest.mark.parametrize("directive", ["ttft_ms=60000", "how=stall cut_after=1"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_cancels_the_upstream(
    stack: Platform, front: Edge, prompt: str, directive: str, *, is_stream: bool
) -> None:
    before = (stack.last_attempt() or {"seq": 0})["seq"]
    payload = json.dumps(chat(f"{prompt} [[sim {directive}]]", stream=is_stream)).encode()
    plain = socket.create_connection(("127.0.0.1", front.https_port), BOUND_S)
    with unchecked().wrap_socket(plain) as wire:
        wire.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (stack.key.encode(), len(payload), payload)
        )
        newest(stack, before, lambda attempt: attempt["prompt"])
    # It would have gone on for longer than this looks. A stall that saw its client leave is finished in its own words.
    ended = newest(stack, before, lambda attempt: attempt["cancelled"] or attempt["finished"])
    assert ended["seq"] == before + 1  # nobody repeated it


def test_a_stream_may_last_longer_than_its_request_may_take_to_arrive(
    stack: Platform, tmp_path: Path, prompt: str
) -> None:
    with edge(tmp_path, [stack.gateway], read_timeout="1s") as front, front.client(stack.key) as http:
        body = chat(f"{prompt} [[sim itl_ms=100 tokens=25]]", stream=True)  # 2.5 s
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")


def test_a_stream_that_breaks_off_breaks_off_for_the_client(stack: Platform, front: Edge, prompt: str) -> None:
    body = chat(f"{prompt} [[sim how=rst cut_after=3 itl_ms=5]]", stream=True)
    with front.client(stack.key) as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        received: list[bytes] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            received.extend(answer.iter_raw())
    assert b'data: {"error"' in b"".join(received)
    assert b"[DONE]" not in b"".join(received)


def newest(stack: Platform, seq: int, is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        attempt = stack.last_attempt()
        return attempt if attempt and attempt["seq"] > seq and is_so(attempt) else None

    return eventually(look)


def attempt_of(stack: Platform, answer: httpx2.Response) -> dict[str, Any]:
    (attempt,) = stack.attempts(answer.headers["x-request-id"])
    return attempt


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_gateway_that_drains_loses_no_request_and_ends_no_stream(
    stack: Platform, tmp_path: Path, prompt: str
) -> None:
    begun = threading.Barrier(STREAMS + 1, timeout=BOUND_S)

    with (
        replicas(stack, 2, drain_delay_s=4, drain_timeout_s=20) as (one, other),  # Traefik knows it after 3 s
        edge(tmp_path, [one.url, other.url]) as front,
        ThreadPoolExecutor(STREAMS) as threads,
        front.client(stack.key) as http,
    ):

        def stream(number: int) -> bytes:
            body = chat(f"{prompt} {number} [[sim itl_ms=100 tokens=60]]", stream=True)  # longer than the delay
            with front.client(stack.key) as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
                parts = answer.iter_raw()
                first = next(parts)
                begun.wait()
                return b"".join([first, *parts])

        streams = [threads.submit(stream, number) for number in range(STREAMS)]
        begun.wait()
        one.process.send_signal(signal.SIGTERM)
        statuses: list[int] = []
        while one.process.poll() is None:
            statuses.append(http.post("/generate", json={"prompt": f"{prompt} {len(statuses)}"}).status_code)
        assert set(statuses) == {200}
        assert all(one.result(BOUND_S).endswith(b"data: [DONE]\n\n") for one in streams)


def test_an_edge_that_stops_ends_no_stream_and_takes_no_more(stack: Platform, tmp_path: Path, prompt: str) -> None:
    body = chat(f"{prompt} [[sim itl_ms=100 tokens=20]]", stream=True)
    with edge(tmp_path, [stack.gateway]) as front, front.client(stack.key) as http:
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            parts = answer.iter_raw()
            received = next(parts)
            front.process.terminate()
            assert eventually(lambda: refuses(front))
            received += b"".join(parts)
        assert received.endswith(b"data: [DONE]\n\n")
        assert front.process.wait(BOUND_S) == 0


def refuses(front: Edge) -> bool:
    try:
        socket.create_connection(("127.0.0.1", front.https_port), BOUND_S).close()
    except ConnectionError:  # refused, or reset at the very moment
        return True
    return False


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_metrics_and_health_are_on_their_own_port(front: Edge) -> None:
    base = f"http://127.0.0.1:{front.metrics_port}"
    with front.client() as http:
        http.get("/health")
    metrics = httpx2.get(f"{base}/metrics", trust_env=False).text
    assert re.search(r'traefik_router_requests_total\{.*router="api@file".*\} \d', metrics)
    assert 'le="600"' in metrics
    assert [httpx2.get(f"{base}{path}", trust_env=False).status_code for path in ("/dashboard/", "/api/rawdata")] == [
        404,
        404,
    ]
    asked_itself = subprocess.run(  # noqa: S603  # as the container's health check does
        [BINARY, "healthcheck", f"--configFile={front.static}"], check=False, capture_output=True, timeout=BOUND_S
    )
    assert asked_itself.returncode == 0, asked_itself


def test_each_request_is_a_span_whose_trace_the_gateway_is_told_of(tmp_path: Path) -> None:
    with (
        running(Sink(), lifespan="off") as sink,
        running(echo, lifespan="off") as url,
        edge(tmp_path, [url], traces_url=sink) as front,
        front.client() as http,
    ):
        seen = http.post("/v1/jobs?secret=hunter2", json={"prompt": "hunter2"}).json()["headers"]
        trace_id = seen["traceparent"].split("-")[1]

        def spans() -> Any:
            answer = httpx2.get(f"{sink}/traces/{trace_id}", trust_env=False)
            return answer.json() if answer.is_success else None

        found = json.dumps(eventually(spans))
    assert "traefik" in found
    assert "hunter2" not in found
