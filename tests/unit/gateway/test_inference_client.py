from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import httpx2
import pytest

from common.deadline import Deadline
from common.errors import DeadlineExceeded, ServiceError, Unavailable
from common.identity import HopIdentity, HopSigner, HopVerifier
from common.telemetry.timings import Timings
from gateway.access.authentication import Caller
from gateway.admission.turnstile import Turnstile
from gateway.call import CHAT, Call
from gateway.inference_client import CONNECT_S, InferenceClient
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOUND_S = 5
SECRET = "the-secret-of-inference-0123456789abcdef"
ALICE = HopIdentity("alice", "key1")


def call(remaining_s: float = 10, *, is_stream: bool = False) -> Call:
    deadline = Deadline.after(remaining_s, Clock())
    return Call(
        Caller("alice", "key1"),
        ALICE,
        "req_1",
        CHAT,
        {"model": "m"},
        b'{"model":"m"}',
        deadline,
        Timings(),
        is_stream=is_stream,
    )


async def _body() -> AsyncIterator[bytes]:
    yield b"{}"


class Inference:
    """The inference service as a transport: raises and answers what it is told, in turn; the last is repeated."""

    def __init__(self, *outcomes: Exception | int) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx2.Response(outcome, content=_body())

    def client(self, turnstile: Turnstile | None = None) -> InferenceClient:
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self), base_url="http://inference")
        return InferenceClient(client, HopSigner(SECRET, "inference"), turnstile)


async def test_a_call_goes_on_with_its_identity_its_request_id_and_the_time_that_remains() -> None:
    inference = Inference(200)
    response = await inference.client().send(call(10))
    (request,) = inference.requests
    assert response.status_code == 200
    assert (request.method, request.url.path, request.content) == ("POST", CHAT, b'{"model":"m"}')
    assert request.headers["x-request-id"] == "req_1"
    assert request.headers["x-request-timeout-ms"] == "9950"
    assert HopVerifier([SECRET], "inference").verify(request.headers["authorization"]) == ALICE


async def test_silence_is_bounded_by_what_remains() -> None:
    inference = Inference(200)
    await inference.client().send(call(10))
    assert inference.requests[0].extensions["timeout"]["read"] == pytest.approx(9.95)


async def test_silence_before_a_stream_is_bounded_by_what_remains_and_its_chunks_move_no_timer() -> None:
    asked: list[httpx2.Request] = []

    async def silent(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(silent), base_url="http://inference")
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(DeadlineExceeded):
            await InferenceClient(client, HopSigner(SECRET, "inference")).send(call(0.3, is_stream=True))
    assert [request.extensions["timeout"]["read"] for request in asked] == [None]


async def test_connecting_is_tried_twice_within_one_budget() -> None:
    inference = Inference(httpx2.ConnectError("refused"))
    with pytest.raises(Unavailable) as refused:
        await inference.client().send(call())
    assert "retry-after" in refused.value.headers
    first, second = (request.extensions["timeout"]["connect"] for request in inference.requests)
    assert second <= first <= CONNECT_S


async def test_a_second_connection_that_works_is_an_answer() -> None:
    inference = Inference(httpx2.ConnectTimeout("slow"), 200)
    assert (await inference.client().send(call())).status_code == 200
    assert len(inference.requests) == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx2.ReadError("reset"), Unavailable),
        (httpx2.WriteError("reset"), Unavailable),
        (httpx2.RemoteProtocolError("garbage"), Unavailable),
        (httpx2.ReadTimeout("silence"), DeadlineExceeded),
    ],
)
async def test_what_may_have_been_received_is_not_sent_again(fault: Exception, kind: type[ServiceError]) -> None:
    inference = Inference(fault)
    with pytest.raises(kind):
        await inference.client().send(call())
    assert len(inference.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503, 504])
async def test_a_status_is_an_answer_and_not_tried_again(status: int) -> None:
    inference = Inference(status)
    assert (await inference.client().send(call())).status_code == status
    assert len(inference.requests) == 1


async def test_services_that_do_not_trust_each_other_are_our_fault_and_not_the_callers() -> None:
    with pytest.raises(Unavailable) as refused:
        await Inference(401).client().send(call())
    assert (refused.value.status, refused.value.code) == (503, "hop_refused")


async def test_nothing_is_sent_for_a_caller_who_is_about_to_leave() -> None:
    inference = Inference(200)
    with pytest.raises(DeadlineExceeded):
        await inference.client().send(call(0.2))
    assert inference.requests == []


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_a_slot_is_free_again_once_the_answer_is_closed(status: int) -> None:
    turnstile = Turnstile(1)
    client = Inference(status).client(turnstile)
    for _ in range(3):
        response = await client.send(call())
        assert turnstile.in_use == 1
        await response.aclose()
        assert turnstile.in_use == 0
    async for _ in (await client.send(call())).aiter_raw():
        pass
    assert turnstile.in_use == 0


@pytest.mark.parametrize("fault", [httpx2.ConnectError("refused"), httpx2.ReadTimeout("silence"), RuntimeError("ours")])
async def test_a_slot_is_free_again_when_there_is_no_answer(fault: Exception) -> None:
    turnstile = Turnstile(1)
    with pytest.raises((ServiceError, RuntimeError)):
        await Inference(fault).client(turnstile).send(call())
    assert turnstile.in_use == 0


async def test_a_caller_who_would_not_wait_says_nothing_of_the_models_load() -> None:
    turnstile = Turnstile(10)
    client = Inference(httpx2.ReadTimeout("silence")).client(turnstile)
    for remaining_s, limit in ((5, 10), (60, 9)):
        with pytest.raises(DeadlineExceeded):
            await client.send(call(remaining_s))
        assert turnstile.limit_of("m") == limit


@pytest.mark.parametrize(("status", "limit"), [(200, 10), (400, 10), (500, 10), (429, 9), (503, 9)])
async def test_answers_that_say_too_much_lower_the_models_limit(status: int, limit: int) -> None:
    turnstile = Turnstile(10)
    await (await Inference(status).client(turnstile).send(call())).aclose()
    assert turnstile.limit_of("m") == limit


async def test_work_of_batch_priority_says_so_to_inferences_door() -> None:
    inference = Inference(200)
    identity = HopIdentity("alice", "key1", "batch")
    await inference.client().send(dataclasses.replace(call(), identity=identity))
    await inference.client().send(call())
    assert [request.headers.get("x-spillway-priority") for request in inference.requests] == ["batch", None]
