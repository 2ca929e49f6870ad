"""What a worker makes of each answer of the gateway's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest

from common.errors import envelope
from common.identity import HopSigner, HopVerifier
from jobs.record import Claim, Record
from jobs.replay import AttemptFailed, Delayed, Failed, Outcome, Replayer, Succeeded

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "the-secret-of-the-tests-0123456789"
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


def claim(endpoint: str = "/v1/chat/completions") -> Claim:
    fields: dict[bytes, bytes] = {
        b"tenant": b"alice", b"key_id": b"k1", b"state": b"running", b"endpoint": endpoint.encode(), b"attempts": b"1",
        b"max_attempts": b"3", b"created_at": b"1", b"deadline": b"2", b"ready_at": b"1",
    }  # fmt: skip
    return Claim(Record.from_hash("job_1", fields), fence=1, remaining_s=60, waited_s=0)


async def replayed(
    answer: Callable[[httpx2.Request], httpx2.Response], *, max_result_bytes: int = 1_000
) -> tuple[Outcome, list[bytes]]:
    chunks: list[bytes] = []

    async def sink(some: list[bytes]) -> None:
        chunks.extend(some)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://gateway") as client:
        replayer = Replayer(client, HopSigner(SECRET, "gateway"), max_result_bytes=max_result_bytes)
        return await replayer.send(claim(), b'{"a":1}', timeout_s=5, sink=sink), chunks


async def outcome_of(status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Outcome:
    return (await replayed(lambda _: httpx2.Response(status, content=_parts((body,)), headers=headers)))[0]


async def test_the_request_is_the_tenants_at_batch_priority_with_one_attempt() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=_parts((b"{}",)))

    assert (await replayed(answer))[0] == Succeeded(200, b"{}")
    (request,) = seen
    assert (request.method, request.url.path, request.content) == ("POST", "/v1/chat/completions", b'{"a":1}')
    assert request.headers["x-spillway-max-attempts"] == "1"
    assert request.headers["x-request-timeout-ms"] == "5000"
    identity = HopVerifier([SECRET], "gateway").verify(request.headers["authorization"])
    assert (identity.tenant, identity.key_id, identity.priority) == ("alice", "k1", "batch")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "wait_s"), [("7", 7.0), ("0", 0.0), ("-1", None), ("soon", None), ("", None)])
async def test_a_refusal_for_now_delays_the_job(status: int, header: str, wait_s: float | None) -> None:
    body = envelope("later", type_="server_error", code="unavailable")
    assert await outcome_of(status, body, {"retry-after": header}) == Delayed(wait_s, "unavailable")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422])
async def test_a_final_refusal_fails_the_job_with_the_gateways_words(status: int) -> None:
    body = envelope("no", type_="invalid_request_error", param="model", code="model_not_found")
    outcome = await outcome_of(status, body)
    assert isinstance(outcome, Failed)
    assert (outcome.status, outcome.code) == (status, "model_not_found")
    assert orjson.loads(outcome.error) == orjson.loads(body)["error"]


@pytest.mark.parametrize("status", [408, 409, 425, 499, 500, 502, 504])
async def test_what_may_go_well_next_time_is_a_failed_attempt(status: int) -> None:
    assert isinstance(await outcome_of(status, b"<html>"), AttemptFailed)


async def test_a_token_that_the_gateway_refuses_is_our_fault_and_delays_the_job() -> None:
    body = envelope("no", type_="invalid_request_error", code="invalid_hop_token")
    assert await outcome_of(401, body) == Delayed(None, "invalid_hop_token")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ConnectError("x"), Delayed),
        (httpx2.ConnectTimeout("x"), Delayed),
        (httpx2.ReadTimeout("x"), AttemptFailed),
        (httpx2.RemoteProtocolError("x"), AttemptFailed),
        (httpx2.ReadError("x"), AttemptFailed),
    ],
)
async def test_only_a_request_that_was_never_sent_costs_no_attempt(error: Exception, kind: type[Any]) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise error

    assert isinstance((await replayed(answer))[0], kind)


async def test_an_answer_that_is_no_json_is_a_failed_attempt() -> None:
    assert isinstance(await outcome_of(200, b"<html>"), AttemptFailed)


async def test_a_result_over_the_bound_fails_the_job() -> None:
    outcome = await outcome_of(200, orjson.dumps({"a": "x" * 2_000}))
    assert isinstance(outcome, Failed)
    assert outcome.code == "result_too_large"


async def test_a_code_that_is_no_word_is_not_repeated() -> None:
    outcome = await outcome_of(400, envelope("no", type_="x", code="Your prompt: secret"))
    assert isinstance(outcome, Failed)
    assert outcome.code == "request_failed"


async def streamed(*parts: bytes) -> tuple[Outcome, list[bytes]]:
    return await replayed(lambda _: httpx2.Response(200, headers=EVENTS, content=_parts(parts)))


async def _parts(parts: tuple[bytes, ...]) -> Any:
    for part in parts:
        yield part


async def test_chunks_are_handed_over_wherever_the_bytes_are_cut() -> None:
    whole = b': ping\n\ndata: {"a":1}\r\n\r\ndata: {"b":2}\n\ndata: [DONE]\n\n'
    for cut in range(len(whole)):
        outcome, chunks = await streamed(whole[:cut], whole[cut:])
        assert (outcome, chunks) == (Succeeded(200, b""), [b'{"a":1}', b'{"b":2}']), cut


@pytest.mark.parametrize("end", [b"", b"data: {", b'data: {"error": {"message": "x", "code": "draining"}}\n\n'])
async def test_a_stream_without_its_end_is_a_failed_attempt(end: bytes) -> None:
    outcome, chunks = await streamed(b'data: {"a":1}\n\n', end)
    assert isinstance(outcome, AttemptFailed)
    assert chunks == [b'{"a":1}']


async def test_an_event_without_end_is_cut_off() -> None:
    outcome, _ = await streamed(b"data: " + b"x" * (1024 * 1024 + 10), b"x")
    assert isinstance(outcome, AttemptFailed)
    assert outcome.code == "stream_malformed"
