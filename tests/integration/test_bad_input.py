"""Bad input through the front door: refused in the one shape, briefly, and never a 5xx."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from gateway.requests import DENIED_FIELDS
from gateway.strict_json import MAX_KEYS
from support.bad_input import BAD_BODIES, BAD_PARAMETERS, CHAT, PRIVATE_URLS, PUBLIC_URLS, image
from support.platform import ADMIN_KEY, BOUND_S, Platform, chat
from support.replicas import Replica, replicas

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/generate")
CAP = 4 * 1024 * 1024
JSON = {"content-type": "application/json"}


@pytest.fixture
def untouched(stack: Platform) -> Iterator[Platform]:
    """The platform, and the certainty that nothing reached the upstream."""
    before = stack.last_attempt()
    yield stack
    assert stack.last_attempt() == before


def refused(answer: httpx2.Response, status: int = 400) -> dict[str, Any]:
    """The error object of a refusal that is as every refusal has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert len(answer.content) <= 1024
    document = answer.json()
    assert set(document["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = document["error"]
    return error


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_no_strict_json_is_refused(
    untouched: Platform, http: httpx2.Client, path: str, body: bytes
) -> None:
    refused(http.post(path, content=body, headers=JSON))
    assert http.get(f"{untouched.gateway}/health").status_code == 200


@pytest.mark.parametrize(
    ("change", "param"), [row[1:] for row in BAD_PARAMETERS], ids=[row[0] for row in BAD_PARAMETERS]
)
@pytest.mark.usefixtures("untouched")
def test_a_bad_parameter_is_refused_by_its_name(http: httpx2.Client, change: dict[str, Any], param: str) -> None:
    error = refused(http.post("/v1/chat/completions", json=CHAT | change))
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("body", [b'{"\\ud800":1}', b'{"\\ud800":1,"metadata":{"\\ud800":1}}'])
@pytest.mark.usefixtures("untouched")
def test_half_a_surrogate_pair_in_a_key_is_refused(http: httpx2.Client, body: bytes) -> None:
    whole = json.dumps(CHAT).encode()[:-1] + b"," + body[1:]
    refused(http.post("/v1/chat/completions", content=whole, headers=JSON))


@pytest.mark.parametrize("field", DENIED_FIELDS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.usefixtures("untouched")
def test_a_client_names_no_upstream(http: httpx2.Client, path: str, field: str) -> None:
    body = {"model": "m", "prompt": "hi", "input": "hi", "messages": CHAT["messages"], field: "http://169.254.169.254"}
    assert refused(http.post(path, json=body))["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"],
)
@pytest.mark.usefixtures("untouched")
def test_another_content_type_is_refused(http: httpx2.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = http.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert refused(answer, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=latin-1"]
)
def test_a_content_type_is_read_as_http_has_it(http: httpx2.Client, content_type: str) -> None:
    answer = http.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
@pytest.mark.usefixtures("untouched")
def test_an_encoded_body_is_refused_unread(http: httpx2.Client, encoding: str) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    headers = JSON | {"content-encoding": encoding}
    assert refused(http.post("/v1/chat/completions", content=bomb, headers=headers), 415)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n\r\n" % (CAP + 1), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (CAP + 1)]
)
def test_a_body_over_the_cap_is_refused_whether_it_says_so_or_not(untouched: Platform, framing: bytes) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer %b\r\n" % untouched.key.encode()
    # What announces its length is refused before it is sent, so nothing of it is.
    body = b"" if b"Content-Length" in framing else b"a" * (CAP + 1)
    answer = answer_to(untouched, head + framing + body)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_a_body_of_exactly_the_cap_is_read(http: httpx2.Client) -> None:
    body = b'{"a":"' + b"a" * (CAP - 8) + b'"}'
    assert len(body) == CAP
    assert refused(http.post("/generate", content=body, headers=JSON))["param"] == "prompt"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/generate", 405),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1//chat/completions", 404),
        ("POST", "/a/../v1/chat/completions", 404),
        ("POST", "/%2e%2e/v1/chat/completions", 404),
        ("GET", "/admin/keys/%2e%2e", 401),
        ("GET", "/v1/jobs/..", 400),
        ("GET", "//health", 404),
        ("GET", "/health/", 404),
        ("POST", "/v1%2fchat/completions%00", 404),
        ("POST", "/v1%2fchat/completions", 404),
        ("POST", "/v1/chat%2Fcompletions", 404),
        ("POST", "/%76%31/chat/completions", 404),
        ("GET", "/v1%2fmodels", 404),
        ("GET", "/v1/models/..%2f..%2fadmin%2fkeys", 404),
        ("GET", "/v1/models/../../admin/keys", 404),
        ("GET", "/admin%2fkeys", 404),
        ("GET", "/admin/keys%2f", 404),
        ("GET", "/%68ealth", 404),
        ("GET", "/v1/models#x", 400),
        ("GET", "ftp://b/v1/models", 400),
        ("GET", "http://b/v1/models", 400),
        ("GET", "/v1/models%5c", 404),
        ("GET", "/v1/jobs/job_%30000000000000000000000000000000", 400),
        ("POST", "/v1/chat/completions;x=y", 404),
        ("POST", "/v1/chat/completions%c0%af", 404),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_a_path_or_method_that_is_none_is_no_other_route(stack: Platform, method: str, path: str, status: int) -> None:
    body = json.dumps(CHAT)
    answer = answer_to(  # by hand: a client would tidy the path up
        stack,
        f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {stack.key if status != 401 else ''}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nlocation:" not in answer.lower()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", f"/admin/keys/{'0' * 16}")]
)
def test_an_api_key_administers_nothing(http: httpx2.Client, method: str, path: str) -> None:
    refused(http.request(method, path, json={} if method == "POST" else None), 403)


@pytest.mark.parametrize("key", ["x", "\u00e9", "a" * 5_000, "' OR '1'='1"])
def test_without_the_admin_key_nothing_is_administered(http: httpx2.Client, key: str) -> None:
    refused(http.get("/admin/keys", headers={b"authorization": f"Bearer {key}".encode("latin-1")}), 401)


@pytest.fixture
def admin(stack: Platform) -> Iterator[httpx2.Client]:
    with stack.http(ADMIN_KEY) as client:
        yield client


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_of_an_administrator_is_refused_too(admin: httpx2.Client, body: bytes) -> None:
    refused(admin.post("/admin/keys", content=body, headers=JSON))


@pytest.mark.parametrize("kid", ["x", "0" * 15, "0" * 17, "A" * 16, "*", "%2e%2e", "0" * 16 + "%0a"])
def test_what_is_no_key_id_is_refused(admin: httpx2.Client, kid: str) -> None:
    assert refused(admin.get(f"/admin/keys/{kid}"))["param"] == "key_id"


def test_a_key_lives_until_it_is_switched_off_or_deleted(stack: Platform, admin: httpx2.Client) -> None:
    made = admin.post("/admin/keys", json={"tenant": "dave", "name": "laptop"}).json()
    shown = {name: value for name, value in made.items() if name != "key"}
    assert admin.get(f"/admin/keys/{made['id']}").json() == shown
    assert shown in admin.get("/admin/keys?tenant=dave").json()["data"]
    assert "digest" not in shown
    with stack.http(made["key"]) as daves:
        assert daves.get("/v1/models").status_code == 200
    changed = admin.patch(f"/admin/keys/{made['id']}", json={"enabled": False})
    assert changed.json() == shown | {"enabled": False}
    assert admin.delete(f"/admin/keys/{made['id']}").status_code == 204
    assert refused(admin.get(f"/admin/keys/{made['id']}"), 404)["param"] == "key_id"
    assert refused(admin.delete(f"/admin/keys/{made['id']}"), 404)


def test_a_key_that_was_never_used_can_be_switched_off_at_once(stack: Platform, admin: httpx2.Client) -> None:
    made = admin.post("/admin/keys", json={"tenant": "dave", "name": "laptop"}).json()
    admin.patch(f"/admin/keys/{made['id']}", json={"enabled": False})
    with stack.http(made["key"]) as daves:
        assert refused(daves.get("/v1/models"), 401)["code"] == "invalid_api_key"


def answer_to(stack: Platform, request: bytes) -> bytes:
    """All that the server sends for these bytes until it closes, or an empty line ends an answer's head."""
    url = urlsplit(stack.gateway)
    data = b""
    with socket.create_connection((url.hostname, url.port), BOUND_S) as wire:
        wire.sendall(request)
        while b"\r\n\r\n" not in data and (part := wire.recv(65_536)):
            data += part
    return data


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
        b"GET /health HTTP/1.1\nHost: a\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        pytest.param(b"GET /health\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"GET /health HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two Hosts"),
        b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_two_parsers_would_read_otherwise_is_refused(stack: Platform, request_: bytes) -> None:
    answer = answer_to(stack, request_)
    assert answer == b"" or b" 200 " not in answer.partition(b"\r\n")[0]
    assert b" 5" not in answer.partition(b"\r\n")[0][:12]


@pytest.mark.parametrize(
    "trace",
    ["", "x", f"00-{'0' * 32}-{'0' * 16}-01", f"00-{'f' * 32}-{'f' * 16}-01", "00-" + "a" * 10_000, "ff-x-y-z"],
)
def test_a_malformed_trace_of_the_caller_harms_nobody(http: httpx2.Client, prompt: str, trace: str) -> None:
    headers = {"traceparent": trace, "tracestate": "a=b", "baggage": "k=" + "v" * 10_000}
    answer = http.post("/v1/chat/completions", json=chat(prompt), headers=headers)
    assert answer.status_code == 200


def test_more_keys_than_an_object_may_have_are_refused(http: httpx2.Client) -> None:
    fields = {f"k{number}": 1 for number in range(MAX_KEYS - len(CHAT))}
    assert http.post("/v1/chat/completions", json=CHAT | fields).status_code == 200
    assert refused(http.post("/v1/chat/completions", json=CHAT | fields | {"one": 1}))["code"] == "invalid_json"


def test_39_a_long_word_costs_no_more_than_its_length(http: httpx2.Client) -> None:
    assert http.post("/v1/chat/completions", json=chat("a" * 900_000)).status_code < 500


def test_40_odd_characters_are_data(http: httpx2.Client) -> None:
    odd = "\u200b\u202e\u200d\ufeff" + "e" + "\u0301" * 10_000
    assert http.post("/v1/chat/completions", json=chat(odd)).status_code == 200


@pytest.mark.parametrize("model", ["nope", "gpt-4", "../../etc/passwd", "sim-small/../x", "a b", "\u202e"])
def test_46_a_model_that_is_none_is_the_same_404(http: httpx2.Client, model: str) -> None:
    error = refused(http.post("/v1/chat/completions", json=CHAT | {"model": model}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_47_a_schema_is_passed_on_and_nothing_of_it_fetched_or_compiled(http: httpx2.Client, prompt: str) -> None:
    schema = {"$ref": "http://127.0.0.1:9/schema.json", "pattern": "(a+)+$"}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert http.post("/v1/chat/completions", json=chat(prompt, tools=[tool])).status_code == 200


@pytest.mark.parametrize("url", PRIVATE_URLS)
@pytest.mark.usefixtures("untouched")
def test_48_an_image_of_a_private_host_is_refused(http: httpx2.Client, url: object) -> None:
    error = refused(http.post("/v1/chat/completions", json=CHAT | image(url)))
    assert error["param"] == "messages[0].content[0].image_url"


@pytest.mark.parametrize(
    "part", [{"file": {"file_url": "http://10.0.0.1/a"}}, {"video": {"source": {"url": "file:///a"}}}]
)
@pytest.mark.usefixtures("untouched")
def test_48_so_is_one_that_stands_deeper(http: httpx2.Client, part: dict[str, Any]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "file", **part}]}
    error = refused(http.post("/v1/chat/completions", json=CHAT | {"messages": [message]}))
    assert error["param"] == "messages[0].content[1]"


@pytest.mark.parametrize("url", PUBLIC_URLS)
def test_48_an_image_of_a_public_host_is_passed_on(http: httpx2.Client, url: str) -> None:
    assert http.post("/v1/chat/completions", json=CHAT | image(url)).status_code == 200


AUTHORIZATIONS = {
    "50 none": None,
    "50 a scheme alone": b"Bearer",
    "50 Basic": b"Basic YTpi",
    "51 not ASCII": "Bearer sw_live_\u00e9".encode(),
    "51 Latin-1": b"Bearer \xe9",
    "52 SQL": b"Bearer ' OR '1'='1",
    "52 a glob": b"Bearer *",
    "52 a key name": b"Bearer v1:{keys}:all",
    "53 another environment": b"Bearer sk-live-0123",
    "53 the admin key": f"Bearer {ADMIN_KEY}".encode(),
}


@pytest.mark.parametrize("authorization", AUTHORIZATIONS.values(), ids=AUTHORIZATIONS)
@pytest.mark.usefixtures("untouched")
def test_a_key_that_is_none_is_401_and_says_how(stack: Platform, authorization: bytes | None) -> None:
    headers = b"" if authorization is None else b"Authorization: " + authorization + b"\r\n"
    answer = answer_to(
        stack, b"GET /v1/models?api_key=%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (stack.key.encode(), headers)
    )
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nwww-authenticate: bearer\r\n" in answer.lower()


@pytest.mark.parametrize(
    ("key", "status"), [(b"a" * 2**20, 431), (b"a\x00b", 400), (b"*\r\nSET x y", 400), (b"x\r\nX-Own: y", 401)]
)
def test_51_a_key_that_is_no_header_is_refused(stack: Platform, key: bytes, status: int) -> None:
    answer = answer_to(stack, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("change", [{"enabled": False}, {"expires_at": 1}, {"expires_at": "2020-01-01T00:00:00Z"}])
def test_53_a_key_that_is_over_is_401(stack: Platform, admin: httpx2.Client, change: dict[str, Any]) -> None:
    made = admin.post("/admin/keys", json={"tenant": "dave", "name": "x"}).json()
    assert admin.patch(f"/admin/keys/{made['id']}", json=change).status_code == 200
    with stack.http(made["key"]) as http:
        assert refused(http.get("/v1/models"), 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize("expires_at", [1, "2020-01-01T00:00:00Z"])
def test_a_key_is_not_made_for_a_time_that_has_passed(admin: httpx2.Client, expires_at: object) -> None:
    error = refused(admin.post("/admin/keys", json={"tenant": "dave", "name": "x", "expires_at": expires_at}))
    assert (error["param"], error["code"]) == ("expires_at", "invalid_value")


@pytest.mark.parametrize(
    ("query", "param"),
    [("?limit=0", "limit"), ("?limit=101", "limit"), (f"/job_{'0' * 32}?wait=31", "wait"), ("/x", "job_id")],
)
def test_a_bound_of_a_jobs_query_is_told_by_its_name(http: httpx2.Client, query: str, param: str) -> None:
    assert refused(http.get(f"/v1/jobs{query}"))["param"] == param


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics", "/admin", "/debug", "/v1"])
def test_54_what_is_none_of_the_callers_business_is_not_there(http: httpx2.Client, path: str) -> None:
    refused(http.get(path), 404)


@pytest.fixture(scope="module")
def replica(stack: Platform) -> Iterator[Replica]:
    with replicas(stack, 1) as (one,):
        yield one


def test_bad_input_leaves_nothing_behind(stack: Platform, replica: Replica) -> None:
    with stack.http() as http:

        def round_of_bad_input() -> int:
            for body in (*BAD_BODIES.values(), b"[" * 1_000_000, b'{"a":"' + b"\\u0041" * 100_000 + b'"'):
                assert http.post(f"{replica.url}/v1/chat/completions", content=body, headers=JSON).status_code == 400
            for number in range(50):
                stranger = {"authorization": f"Bearer sw_live_{number:016x}_{'0' * 72}"}
                assert http.get(f"{replica.url}/v1/models", headers=stranger).status_code == 401
            return resident_bytes(replica.process.pid)

        for _ in range(3):
            before = round_of_bad_input()
        for _ in range(5):
            after = round_of_bad_input()
    assert after - before < 16 * 2**20


def resident_bytes(pid: int) -> int:
    """Source: proc(5), statm, in pages of 4 KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
