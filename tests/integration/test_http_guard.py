"""What the guard refuses, on the wire; the numbers are those of the catalogue of bad input."""

from __future__ import annotations

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from common.guard.door import Door
from common.guard.protocol import guarded
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

pytestmark = pytest.mark.measured  # its patience is tenths of a second
BOUND_S = 10
HEAD = b"GET /echo HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what arrived. `/deaf` answers without reading the body, `/mute` reads and answers nothing, `/stream` does
    not say how long its answer is.
    """
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    more = scope["path"] != "/deaf"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/mute":
        await receive()
        return
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one,", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
        return
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    told = {"path": scope["path"], "client": scope["client"][0], "headers": headers, "body": body.decode("latin-1")}
    answer = json.dumps(told).encode()
    own = [(b"content-length", str(len(answer)).encode())]
    if scope["path"] == "/split":
        own.append((b"x-own", b"a\r\nset-cookie: b"))
    await send({"type": "http.response.start", "status": 200, "headers": own})
    await send({"type": "http.response.body", "body": answer})


@contextlib.contextmanager
def served(door: Door | None = None, app: Any = echo, **settings: Any) -> Iterator[str]:
    with running(app, http=guarded(door or Door(is_edge=True)), **settings) as url:
        yield url


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as started:
        yield started


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), BOUND_S)


def talk(url: str, data: bytes) -> bytes:
    """All that the server says until it closes, or until an answer is whole."""
    with connect(url) as wire:
        wire.sendall(data)
        return heard(wire)


def heard(wire: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while not is_whole(data) and (part := wire.recv(65_536)):
            data += part
    return data


def is_whole(data: bytes) -> bool:
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return length is not None and len(body) >= int(length.partition(b":")[2])


def is_closed(wire: socket.socket) -> bool:
    """Whether the server ends the connection, within the bound."""
    with contextlib.suppress(ConnectionResetError):
        while wire.recv(65_536):
            pass
    return True


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def refused(answer: bytes) -> dict[str, Any]:
    """The error object of a refusal that is as every refusal has to be."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert b"content-type: application/json" in lines
    assert any(line.startswith(b"x-request-id: req_") for line in lines)
    assert len(answer) <= 1024
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def echoed(answer: bytes) -> dict[str, Any]:
    assert status_of(answer) == 200, answer[:300]
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told


CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED = {
    "1 CL and TE": (POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "1 TE and CL": (POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "2 two CL": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ", 400),
    "2 two CL alike": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "2 CL as a list": (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "2 CL below zero": (POST + b"Content-Length: -1\r\n\r\n{}", 400),
    "2 CL with a plus": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "3 TE xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "3 TE chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "3 TE gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "3 TE with a control": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "4 two TE": (POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "4 two TE, one obfuscated": (POST + CHUNKED + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "5 obs-fold": (HEAD + b"X-A: b\r\n c\r\n\r\n", 400),
    "6 bare LF": (b"GET /echo HTTP/1.1\nHost: a\n\n", 400),
    "6 bare CR": (b"GET /echo HTTP/1.1\rHost: a\r\r", 400),
    "7 no Host": (b"GET /echo HTTP/1.1\r\n\r\n", 400),
    "7 no Host, HTTP/1.0": (b"GET /echo HTTP/1.0\r\n\r\n", 400),
    "7 an empty Host": (b"GET /echo HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "7 a Host that is none": (b"GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "7 a Host with a user": (b"GET /echo HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "7 a Host with a bad port": (b"GET /echo HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "8 two Hosts": (HEAD + b"Host: b\r\n\r\n", 400),
    "8 two Hosts alike": (HEAD + b"Host: a\r\n\r\n", 400),
    "9 HTTP/0.9": (b"GET /echo\r\n\r\n", 400),
    "9 HTTP/2.0": (b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "9 the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "10 chunk size ZZ": (POST + CHUNKED + b"\r\nZZ\r\n", 400),
    "11 absolute URI to another host": (b"GET http://b/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "12 a 1 MB header": (HEAD + b"X-A: " + b"a" * 2**20 + b"\r\n\r\n", 431),
    "12 a 33 KB header": (HEAD + b"X-A: " + b"a" * 33_000 + b"\r\n\r\n", 431),
    "12 a name of 1 MB": (HEAD + b"a" * 2**20 + b": a\r\n\r\n", 431),
    "12 101 headers": (HEAD + b"X-A: b\r\n" * 100 + b"\r\n", 431),
    "13 a 1 MB request line": (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "13 a 9 KB request line": (b"GET /?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "14 a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "15 CONNECT with a body": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 2\r\n\r\n{}", 405),
    "15 TRACE": (b"TRACE /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "17 a websocket": (HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n", 426),
    "16 an upgrade with a body": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}", 426),
    "18 a chunk size of more than 64 bits": (POST + CHUNKED + b"\r\nffffffffffffffffff\r\n", 400),
    "18 a chunk size of 64 bits": (POST + CHUNKED + b"\r\nffffffffffffffff\r\n", 413),
    "18 the same with a part of it": (POST + CHUNKED + b"\r\n80000000;a=b\r\nabc\r\ndef", 413),
    "18 the same behind another": (POST + CHUNKED + b"\r\n1\r\na\r\nfffffffffff\r\n", 413),
    "two keys": (HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
    "a key twice": (HEAD + b"Authorization: Bearer a\r\nauthorization: Bearer a\r\n\r\n", 400),
    "two types": (POST + b"Content-Type: application/json\r\nContent-Type: text/plain\r\n\r\n", 400),
    "two keys of one run": (POST + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n", 400),
    "chunks over HTTP/1.0": (b"POST /echo HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "a method that nobody knows": (b"FROB /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a method in lower case": (b"get /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a bad head behind a good one": (HEAD + b"\r\n{ }" + HEAD + b"\r\n", 400),
    "no method at all": (b"nonsense\r\n\r\n", 400),
    "a path that is no ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a NUL in a header": (HEAD + b"X-A: a\x00b\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_in_the_one_shape_and_the_connection_closed(
    url: str, data: bytes, status: int
) -> None:
    with connect(url) as wire:
        with contextlib.suppress(ConnectionError):  # it may close before all of a flood was sent
            wire.sendall(data)
        answer = heard(wire)
        refused(answer)
        assert status_of(answer) == status
        assert is_closed(wire)


PASSED = {
    "18 chunks that look like sizes": POST + CHUNKED + b"\r\n14\r\n\r\nffffffffffffffff\r\n\r\n0\r\n\r\n",
    "a Host with a port": b"GET /echo HTTP/1.1\r\nHost: a.b-c_d:8080\r\n\r\n",
    "a Host that is an address": b"GET /echo HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "11 absolute URI to this host": b"GET http://A/echo HTTP/1.1\r\nHost: a\r\n\r\n",
    "12 100 headers": HEAD + b"X-A: b\r\n" * 99 + b"\r\n",
    "12 31 KB of headers": HEAD + b"X-A: " + b"a" * 31_000 + b"\r\n\r\n",
    "13 an 8 KB request line": b"GET /echo?" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "21 Expect: bogus": HEAD + b"Expect: bogus\r\n\r\n",
    "23 Connection: authorization": HEAD + b"Authorization: Bearer x\r\nConnection: authorization\r\n\r\n",
    "63 many ranges": HEAD + b"Range: bytes=" + b"0-0," * 2_000 + b"1-1\r\nAccept: ;q\r\n\r\n",
}


def test_a_header_that_stands_twice_is_named(url: str) -> None:
    answer = talk(url, HEAD + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n")
    assert refused(answer)["param"] == "Authorization"


def test_a_method_that_is_not_served_comes_with_those_that_are(url: str) -> None:
    for method in (b"FROB", b"TRACE"):
        assert b"\r\nallow: GET, HEAD, POST, " in talk(url, method + b" /echo HTTP/1.1\r\nHost: a\r\n\r\n")


def until_the_end(url: str, data: bytes) -> tuple[bytes, bytes]:
    """The head of the answer, and all that comes until the server closes."""
    with connect(url) as wire:
        wire.sendall(data)
        said = b"".join(iter(lambda: wire.recv(65_536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return head.lower(), body


@pytest.mark.parametrize("further", [b"", b"Connection: keep-alive\r\n"])
def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection_ends_the_body(
    url: str, further: bytes
) -> None:
    head, body = until_the_end(url, b"GET /stream HTTP/1.0\r\nHost: a\r\n" + further + b"\r\n")
    assert (status_of(head), body) == (200, b"one,two")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


def test_a_client_of_http_1_0_reads_a_body_by_its_length_and_hears_no_100(url: str) -> None:
    post = b"POST /echo HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    head, body = until_the_end(url, post)
    assert status_of(head) == 200
    assert b"content-length: %d\r\n" % len(body) in head
    assert json.loads(body)["body"] == "{}"


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["a new connection", "a kept one"])
@pytest.mark.parametrize("rest", [b"\r\n", b""], ids=["the rest comes", "nothing comes"])
def test_a_head_that_is_under_way_when_the_server_stops_is_answered_or_told_that_it_is_late(
    before: bytes, rest: bytes
) -> None:
    with contextlib.ExitStack() as server, ThreadPoolExecutor(1) as pool:
        door = Door(header_timeout_s=0.3 if not rest else 10)
        url = server.enter_context(served(door, timeout_graceful_shutdown=BOUND_S))
        with connect(url) as wire, connect(url) as idle:
            for kept in (idle, wire) if before else (idle,):
                kept.sendall(HEAD + b"\r\n")
                assert status_of(heard(kept)) == 200
            wire.sendall(HEAD[:-1])
            assert status_of(talk(url, HEAD + b"\r\n")) == 200  # what was sent before it has been read
            stopped = pool.submit(server.close)
            assert is_closed(idle)  # every connection knows by now
            wire.sendall(HEAD[-1:] + rest if rest else b"")
            answer = heard(wire)
            assert status_of(answer) == (200 if rest else 408)
            assert b"connection: close" in answer.lower()
            assert is_closed(wire)
            stopped.result(BOUND_S)


@pytest.mark.parametrize("data", PASSED.values(), ids=PASSED)
def test_what_is_odd_and_harmless_is_served(url: str, data: bytes) -> None:
    told = echoed(talk(url, data))
    if b"Bearer x" in data:
        assert ["authorization", "Bearer x"] in told["headers"]


def test_16_an_upgrade_that_is_none_is_ignored_and_the_connection_closed(url: str) -> None:
    with connect(url) as wire:
        wire.sendall(HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
        answer = heard(wire)
        assert echoed(answer)["path"] == "/echo"
        assert b"connection: close" in answer.lower()
        assert is_closed(wire)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a%2fb", "/a%2fb"),
        ("/%61", "/%61"),
        ("/free/a%2Fb%20c", "/free/a/b c"),
        ("/freed%2f", "/freed%2f"),
        ("/a?b=%2f", "/a"),
    ],
)
def test_22_a_path_is_what_it_says_but_where_it_may_hold_anything(target: str, path: str) -> None:
    with served(Door(decoded_below=(b"/free/",))) as url:
        told = echoed(talk(url, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))
    assert told["path"] == path


def test_19_what_stands_in_trailers_is_ignored(url: str) -> None:
    data = POST + CHUNKED + b"Trailer: Authorization\r\n\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    told = echoed(talk(url, data))
    assert told["body"] == "{}"
    assert "authorization" not in dict(told["headers"])


FORGED = [
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X_Forwarded_For", "Forwarded", "X-Real-IP",
    "X_Request_Id", "X-Spillway-Usage", "X-Spillway-Tenant", "x_spillway_tenant", "Authorization_", "Content_Length",
]  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_24_what_a_client_says_in_names_of_ours_or_of_proxies_is_taken_out(url: str, name: str) -> None:
    told = echoed(talk(url, HEAD + f"{name}: 1\r\nX-Kept: 1\r\n\r\n".encode()))
    assert [header for header, _ in told["headers"]] == ["host", "x-kept"]


def test_24_behind_a_trusted_proxy_the_client_is_whom_that_names() -> None:
    door = Door(is_edge=True, trusted_proxies=("127.0.0.0/8",))
    with served(door, proxy_headers=True, forwarded_allow_ips=list(door.trusted_proxies)) as url:
        told = echoed(talk(url, HEAD + b"X-Forwarded-For: 198.51.100.1, 203.0.113.7\r\nX_Forwarded_For: 1\r\n\r\n"))
    assert told["client"] == "203.0.113.7"
    assert "x_forwarded_for" not in dict(told["headers"])


def test_an_ipv4_client_is_itself_on_a_socket_of_every_address() -> None:
    door = Door(is_edge=True, trusted_proxies=("127.0.0.0/8",))
    from_proxy = HEAD + b"X-Forwarded-For: 203.0.113.7\r\n\r\n"
    with served(Door(is_edge=True), on_every_address=True) as url:
        assert echoed(talk(url, HEAD + b"\r\n"))["client"] == "127.0.0.1"
    with served(door, on_every_address=True, proxy_headers=True, forwarded_allow_ips=["127.0.0.0/8"]) as url:
        assert echoed(talk(url, from_proxy))["client"] == "203.0.113.7"


def test_a_service_behind_the_edge_keeps_what_the_edge_says() -> None:
    with served(Door()) as url:
        told = echoed(talk(url, HEAD + b"X-Spillway-Max-Attempts: 1\r\nX-Spillway-Usage: 1\r\n\r\n"))
    assert {"x-spillway-max-attempts", "x-spillway-usage"} <= dict(told["headers"]).keys()


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"\r\n", 0), (b"GET /ec", 408), (HEAD + b"X-A: ", 408), (HEAD + b"\r\n", 200)],
    ids=["nothing", "an empty line", "half a line", "half a head", "a head"],
)
def test_20_a_head_that_does_not_arrive_ends_the_connection(sent: bytes, status: int) -> None:
    with served(Door(header_timeout_s=0.3)) as url, connect(url) as wire:
        wire.sendall(sent)
        answer = heard(wire)
        assert status_of(answer) == status
        if status == 408:
            assert refused(answer)["code"] == "header_timeout"
        if status == 200:  # the next one has its time as well
            wire.sendall(b"GET /ec")
            assert refused(heard(wire))["code"] == "header_timeout"
        if status != 200:
            assert is_closed(wire)


@pytest.mark.parametrize("path", [b"/echo", b"/deaf"])
@pytest.mark.parametrize("framing", [b"Content-Length: 5000\r\n\r\n{", CHUNKED + b"\r\n1\r\n{\r\n"])
def test_20_a_body_that_does_not_arrive_ends_the_connection(path: bytes, framing: bytes) -> None:
    with served(Door(body_timeout_s=0.3)) as url, connect(url) as wire:
        wire.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + framing)
        answer = heard(wire)
        if path == b"/echo":
            assert (status_of(answer), refused(answer)["code"]) == (408, "body_timeout")
        else:
            assert status_of(answer) == 200
        assert is_closed(wire)


@pytest.mark.parametrize(
    "parts",
    [
        [b"Content-Length: 2\r\n\r\n{}"],
        [b"Content-Length: 2\r\n\r\n{", b"}"],
        [b"Content-Length: 2\r\n\r\n{}", b"\r\n"],
    ],
    ids=["at once", "in two parts", "with an empty line behind it"],
)
def test_a_slow_answer_is_not_a_slow_request(parts: list[bytes]) -> None:
    with served(Door(body_timeout_s=0.2, header_timeout_s=0.2)) as url, connect(url) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.sendall(b"POST /mute HTTP/1.1\r\nHost: a\r\n")
        for part in parts:
            wire.sendall(part)
            wire.settimeout(0.05)
            with pytest.raises(TimeoutError):  # apart, so that the server reads them apart
                wire.recv(1)
        wire.settimeout(1)
        with pytest.raises(TimeoutError):
            wire.recv(1)


def test_connections_of_one_address_are_capped_and_free_again_when_they_close() -> None:
    with served(Door(connections_per_address=3)) as url, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(url)) for _ in range(3)]
        for wire in held:
            wire.sendall(HEAD + b"\r\n")
            assert status_of(heard(wire)) == 200
        over = talk(url, HEAD + b"\r\n")
        assert (status_of(over), refused(over)["code"]) == (429, "too_many_connections")
        assert b"retry-after: 1" in over.lower()
        held[0].close()
        for _ in range(100):
            if status_of(talk(url, HEAD + b"\r\n")) == 200:
                return
        raise AssertionError("the place was not given back")


def test_connections_in_all_are_capped() -> None:
    protocol = guarded(Door())
    protocol.most_connections = 2
    with running(echo, http=protocol) as url, connect(url) as one, connect(url) as two:
        for wire in (one, two):
            wire.sendall(HEAD + b"\r\n")
            assert status_of(heard(wire)) == 200
        over = talk(url, HEAD + b"\r\n")
        assert (status_of(over), refused(over)["code"]) == (503, "too_many_connections")


def test_an_answer_cannot_be_split() -> None:
    with served() as url:
        answer = talk(url, b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"set-cookie" not in answer.lower()
    assert status_of(answer) in (0, 500)


def test_a_refusal_reaches_a_client_that_is_still_sending(url: str) -> None:
    for _ in range(20):
        with connect(url) as wire:
            wire.sendall(POST + b"Host: b\r\nContent-Length: 1000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                wire.sendall(b"a" * 1_000_000)
            assert refused(heard(wire))["code"] == "bad_host"


def test_64_bytes_after_a_request_are_the_next_request_or_end_the_connection(url: str) -> None:
    with connect(url) as wire:
        wire.sendall(HEAD + b"\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := wire.recv(65_536):
                data += part
    assert data.startswith(b"HTTP/1.1 ")
    assert data.count(b" 200 OK") <= 2
    assert data.count(b" 400 Bad Request") <= 1
    assert b" 500 " not in data


def test_requests_in_a_row_are_answered_in_their_order(url: str) -> None:
    with connect(url) as wire:
        wire.sendall(HEAD + b"\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        data = b""
        while data.count(b'"path"') < 2 and (part := wire.recv(65_536)):
            data += part
    assert data.index(b'"/echo"') < data.index(b'"/next"')
