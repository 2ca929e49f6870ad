"""Calls of other services and operations of stores: one record each, and none at all when nobody takes metrics."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx2
import pytest
from opentelemetry.metrics import NoOpMeter

from common import http_client
from common.telemetry.http_metrics import ClientMetrics, MeasuredCalls
from common.telemetry.spans import UNTRACED, StoreSpans
from support.instruments import Instruments
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = "http.client.request.duration"
OF_CALLS = ("http.request.method", "server.address", "http.response.status_code", "error.type")
OPERATIONS = "db.client.operation.duration"
OF_OPERATIONS = ("db.system.name", "db.operation.name", "error.type")


def client(instruments: Instruments, answer: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.AsyncClient:
    transport = MeasuredCalls(httpx2.MockTransport(answer), ClientMetrics(instruments.meter))
    return httpx2.AsyncClient(transport=transport)


@pytest.mark.parametrize(("status", "error_type"), [(200, None), (404, "404"), (503, "503")])
async def test_a_call_is_one_record_with_where_it_went_and_how_it_ended(status: int, error_type: str | None) -> None:
    instruments = Instruments()
    async with client(instruments, lambda _: httpx2.Response(status)) as calls:
        await calls.get("https://inference.test/v1/models?one=1")
        await calls.get("https://inference.test/v1/models?two=2")

    assert instruments.values(CALLS, *OF_CALLS) == {("GET", "inference.test", status, error_type): 2}
    assert instruments.values(CALLS, "server.port") == {(443,): 2}


async def test_a_call_that_never_got_an_answer_is_named_for_what_went_wrong() -> None:
    instruments = Instruments()

    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("gone", request=request)

    async with client(instruments, fail) as calls:
        with pytest.raises(httpx2.ConnectError):
            await calls.post(f"http://127.0.0.1:{free_port()}/")

    assert instruments.values(CALLS, *OF_CALLS) == {("POST", "127.0.0.1", None, "ConnectError"): 1}


@pytest.mark.parametrize("meter", [None, NoOpMeter("gateway")])
async def test_without_metrics_a_client_has_no_further_layer(meter: NoOpMeter | None) -> None:
    async with http_client.create_client(meter=meter) as calls:
        assert type(calls._transport) is http_client.Transport


def test_an_operation_is_one_record_whether_it_is_a_span_or_not() -> None:
    instruments = Instruments()
    store = StoreSpans("state", meter=instruments.meter)
    with store.operation("admit"):
        pass
    with store.in_background("renew"), pytest.raises(TimeoutError), store.operation("admit"):
        raise TimeoutError

    assert instruments.values(OPERATIONS, *OF_OPERATIONS) == {
        ("redis", "admit", None): 1,
        ("redis", "admit", "TimeoutError"): 1,
        ("redis", "renew", None): 1,
    }
    assert {point.explicit_bounds[0] for point in instruments.points(OPERATIONS)} == {0.0005}


def test_a_caller_who_left_says_nothing_of_the_store() -> None:
    instruments = Instruments()
    store = StoreSpans("state", meter=instruments.meter)
    with pytest.raises(asyncio.CancelledError), store.operation("admit"):
        raise asyncio.CancelledError
    assert instruments.points(OPERATIONS) == []


@pytest.mark.parametrize("store", [UNTRACED, StoreSpans("state", meter=NoOpMeter("gateway"))])
def test_without_metrics_and_traces_an_operation_costs_nothing(store: StoreSpans) -> None:
    assert store.operation("admit") is store.in_background("renew") is UNTRACED.operation("claim")
