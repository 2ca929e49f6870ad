from __future__ import annotations

import email.utils
import json
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.catalogue import TargetSpec
from inference.errors import AttemptFailedError
from inference.upstream import Upstream, answer_of, transport_failure

if TYPE_CHECKING:
    from collections.abc import Callable

API_KEY = "sk-the-key-of-the-platform"
PAYLOAD = b'{"model":"m","an_unknown_field":1}'


def upstream(handler: Callable[[httpx2.Request], httpx2.Response]) -> Upstream:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler), follow_redirects=False)
    return Upstream(base_url="http://model/v1", api_key=API_KEY, client=client, connect_timeout_s=3)


async def ask(handler: Callable[[httpx2.Request], httpx2.Response], read_timeout_s: float = 10) -> httpx2.Response:
    return await upstream(handler).open(
        "POST", "/chat/completions", content=PAYLOAD, request_id="req_1", read_timeout_s=read_timeout_s
    )


def answering(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: httpx2.Response(status, content=content, headers=headers)


async def failure_of(status: int, body: Any = None, headers: dict[str, str] | None = None) -> AttemptFailedError:
    with pytest.raises(AttemptFailedError) as failed:
        await ask(answering(status, body, headers))
    return failed.value


async def test_the_payload_reaches_the_upstream_unchanged_with_our_key_and_its_time() -> None:
    requests: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, content=b"{}")

    await ask(handler, 10)
    await upstream(handler).open("GET", "/models", content=None, request_id="req_2", read_timeout_s=2)
    post, get = requests
    assert (post.method, str(post.url), post.content) == ("POST", "http://model/v1/chat/completions", PAYLOAD)
    assert (post.headers["authorization"], post.headers["x-request-id"]) == (f"Bearer {API_KEY}", "req_1")
    assert post.extensions["timeout"] == {"connect": 3, "read": 10, "write": 10, "pool": 3}
    assert (get.method, str(get.url), get.content) == ("GET", "http://model/v1/models", b"")
    assert get.extensions["timeout"] == {"connect": 2, "read": 2, "write": 2, "pool": 2}


@pytest.mark.parametrize(
    ("status", "told", "type_", "is_retryable"),
    [
        (400, 400, "invalid_request_error", False),
        (401, 502, "upstream_error", False),
        (403, 502, "upstream_error", False),
        (404, 404, "invalid_request_error", False),
        (408, 408, "invalid_request_error", False),
        (409, 409, "invalid_request_error", False),
        (413, 413, "invalid_request_error", False),
        (415, 415, "invalid_request_error", False),
        (422, 422, "invalid_request_error", False),
        (429, 429, "rate_limit_error", True),
        (418, 502, "upstream_error", False),
        (302, 502, "upstream_error", False),
        (500, 502, "upstream_error", False),
        (502, 502, "upstream_error", True),
        (503, 503, "server_error", True),
        (504, 504, "server_error", True),
        (599, 502, "upstream_error", False),
    ],
)
async def test_a_status_of_the_upstream_is_told_as_what_it_means_for_the_caller(
    status: int, told: int, type_: str, is_retryable: bool
) -> None:
    failed = await failure_of(status, {"error": {"message": "no", "type": "x", "param": None, "code": None}})
    assert (failed.error.status, failed.error.type, failed.is_retryable) == (told, type_, is_retryable)
    assert failed.reason == f"status_{status}"


async def test_the_upstreams_own_words_reach_the_caller() -> None:
    failed = await failure_of(404, {"error": {"message": "No model x.", "param": "model", "code": "model_not_found"}})
    assert (failed.error.message, failed.error.param, failed.error.code) == ("No model x.", "model", "model_not_found")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500, 503])
async def test_our_key_is_in_nothing_that_the_caller_or_a_log_gets(status: int) -> None:
    body = {"error": {"message": f"Bad key {API_KEY}!", "param": API_KEY, "code": f"x{API_KEY}"}}
    failed = await failure_of(status, body, {"x-echo": API_KEY, "www-authenticate": API_KEY})
    assert API_KEY.encode() not in failed.error.body()
    assert API_KEY not in str(failed.error.headers) + str(failed) + str(failed.error)


async def test_a_refusal_of_our_key_says_nothing_of_what_the_upstream_said() -> None:
    failed = await failure_of(401, {"error": {"message": "Incorrect API key: sk-th*****form"}})
    assert (failed.error.status, failed.error.code) == (502, "upstream_auth")
    assert "sk-" not in failed.error.message
    assert "www-authenticate" not in failed.error.headers


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[]", b"null", b'"no"', b'{"error": "no"}', b"\xff"]
)
async def test_an_error_of_any_other_shape_is_one_too(body: bytes) -> None:
    failed = await failure_of(503, body)
    assert failed.error.status == 503
    assert json.loads(failed.error.body())["error"]["message"]


@pytest.mark.parametrize("message", ["m" * 100_000, "\ud800", None, 5, ["no"]])
async def test_an_upstreams_message_is_neither_endless_nor_poison(message: object) -> None:
    failed = await failure_of(400, json.dumps({"error": {"message": message, "param": 3, "code": 4}}).encode())
    assert len(failed.error.body()) <= 2048


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("0.5", 0.5), ("99999", 99_999.0), ("-1", None), ("soon", None), ("inf", None),
     ("nan", None), ("", None), ("Mon, 32 Jan 2026 99:00:00 GMT", None)],
)  # fmt: skip
async def test_retry_after_is_read_in_seconds_and_nonsense_is_none(header: str, seconds: float | None) -> None:
    failed = await failure_of(429, {}, {"retry-after": header})
    assert failed.retry_after_s == seconds
    if seconds is None:
        assert failed.error.headers.get("retry-after") in (None, "1")
    else:
        assert failed.error.headers["retry-after"] == str(max(1, round(seconds)))


async def test_retry_after_may_be_a_date() -> None:
    failed = await failure_of(503, {}, {"retry-after": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert failed.retry_after_s is not None
    assert 90 < failed.retry_after_s <= 100


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40) | st.floats().map(str))
def test_no_retry_after_is_so_odd_that_it_breaks_the_answer(header: str) -> None:
    from inference.upstream import _retry_after_s  # noqa: PLC0415  # its one caller is asynchronous, Hypothesis is not

    seconds = _retry_after_s({"retry-after": header})
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    "header",
    ["Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 -2359", "1, 1 Jan 1 0:0:0 +9999"],
)
async def test_a_retry_after_beyond_the_calendar_is_none(header: str) -> None:
    assert (await failure_of(503, {}, {"retry-after": header})).retry_after_s in (None, pytest.approx(2.5e11, rel=0.5))


@pytest.mark.parametrize(
    ("error", "status", "reason", "is_retryable"),
    [
        (httpx2.ConnectError("x"), 503, "connect", True),
        (httpx2.ConnectTimeout("x"), 503, "connect", True),
        (httpx2.ReadTimeout("x"), 504, "timeout", True),
        (httpx2.WriteTimeout("x"), 504, "timeout", True),
        (TimeoutError(), 504, "timeout", True),
        (httpx2.ReadError("x"), 502, "broken", True),
        (httpx2.WriteError("x"), 502, "broken", True),
        (httpx2.RemoteProtocolError("x"), 502, "malformed", False),
        (httpx2.DecodingError("x"), 502, "malformed", False),
    ],
)
async def test_a_failure_of_the_connection_is_told_as_what_it_means(
    error: Exception, status: int, reason: str, is_retryable: bool
) -> None:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    direct = transport_failure(error)
    assert (direct.error.status, direct.reason, direct.is_retryable) == (status, reason, is_retryable)
    if isinstance(error, httpx2.HTTPError):
        with pytest.raises(AttemptFailedError) as failed:
            await ask(handler)
        assert (failed.value.error.status, failed.value.reason) == (status, reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices": []}', None),
        (b'{"error": null}', None),
        (b'{"error": {"message": "no"}}', "error_in_answer"),
        (b'{"error": "no"}', "error_in_answer"),
        (b"[]", "malformed"),
        (b"null", "malformed"),
        (b"", "malformed"),
        (b"<html>", "malformed"),
        (b'{"choices": [', "malformed"),
        (b"\xff", "malformed"),
    ],
)
def test_an_answer_with_status_200_can_still_be_a_failure(body: bytes, reason: str | None) -> None:
    if reason is None:
        assert answer_of(body) == json.loads(body)
        return
    with pytest.raises(AttemptFailedError) as failed:
        answer_of(body)
    assert (failed.value.reason, failed.value.error.status, failed.value.is_retryable) == (reason, 502, False)


@pytest.mark.parametrize(
    ("fields", "url", "shown"),
    [
        ({}, "http://model/v1/chat/completions", ("authorization", f"Bearer {API_KEY}")),
        ({"auth": "api-key"}, "http://model/v1/chat/completions", ("api-key", API_KEY)),
        ({"api_version": "2024-10-21"}, "http://model/v1/chat/completions?api-version=2024-10-21", None),
    ],
)
async def test_a_key_is_shown_and_a_version_named_as_the_provider_wants_it(
    fields: dict[str, str], url: str, shown: tuple[str, str] | None
) -> None:
    requests: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, content=b"{}")

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    spec = TargetSpec.model_validate({"name": "a", "base_url": "http://model/v1", **fields})
    await Upstream.of(spec, API_KEY, client).open(
        "POST", "/chat/completions", content=PAYLOAD, request_id="req_1", read_timeout_s=10
    )
    assert str(requests[0].url) == url
    if shown is not None:
        name, value = shown
        assert requests[0].headers[name] == value
        assert [value for value in requests[0].headers.values() if API_KEY in value] == [shown[1]]
