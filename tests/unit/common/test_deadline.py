from __future__ import annotations

import asyncio

import pytest

from common.deadline import HOP_RESERVE_S, LEAST_USEFUL_S, Deadline, Patience, positive_number
from common.errors import ClientGone, DeadlineExceeded, InvalidRequest, RateLimited
from support.asgi import Line
from support.clock import Clock

BOUND_S = 5


def test_the_next_hop_gets_what_remains_less_a_reserve() -> None:
    clock = Clock()
    deadline = Deadline.after(10, clock)
    clock.advance(4)
    assert deadline.remaining_s() == pytest.approx(6)
    assert deadline.budget_s() == pytest.approx(6 - HOP_RESERVE_S)


@pytest.mark.parametrize(("cap", "expected"), [(2.0, 2.0), (60.0, 10 - HOP_RESERVE_S)])
def test_a_cap_only_ever_shortens_the_budget(cap: float, expected: float) -> None:
    assert Deadline.after(10, Clock()).budget_s(cap) == pytest.approx(expected)


@pytest.mark.parametrize("remaining", [LEAST_USEFUL_S - 0.001, 0.0, -5.0])
def test_work_is_refused_when_too_little_time_remains(remaining: float) -> None:
    with pytest.raises(DeadlineExceeded) as refused:
        Deadline.after(remaining, Clock(0.0)).budget_s()
    assert refused.value.status == 504


def test_the_least_useful_time_is_still_accepted() -> None:
    assert Deadline.after(LEAST_USEFUL_S, Clock(0.0)).budget_s() == pytest.approx(LEAST_USEFUL_S - HOP_RESERVE_S)


async def test_a_body_that_ends_in_time_is_left_alone() -> None:
    line = Line()
    async with Patience(Deadline.after(BOUND_S), line.receive):
        result = await asyncio.sleep(0, "answer")
    assert result == "answer"
    line.hang_up()
    await asyncio.sleep(0)  # leaving now cancels nobody
    await asyncio.sleep(0)


async def test_a_deadline_that_passes_cancels_the_body_and_says_so() -> None:
    was_cancelled = asyncio.Event()

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    with pytest.raises(DeadlineExceeded):
        async with Patience(Deadline.after(0.01), Line().receive):
            await body()
    assert was_cancelled.is_set()


async def test_a_deadline_that_has_passed_already_stops_the_body_at_its_first_wait() -> None:
    with pytest.raises(DeadlineExceeded):
        async with Patience(Deadline.after(-3), Line().receive):
            await asyncio.Event().wait()


async def test_a_caller_who_hangs_up_cancels_the_body_and_is_told_apart_from_a_deadline() -> None:
    line = Line()
    asyncio.get_running_loop().call_soon(line.hang_up)
    with pytest.raises(ClientGone):
        async with Patience(Deadline.after(BOUND_S), line.receive):
            await asyncio.Event().wait()


async def test_other_messages_than_the_disconnect_are_not_taken_for_one() -> None:
    kinds = ["http.request", "http.request", "http.disconnect"]

    async def receive() -> dict[str, object]:
        return {"type": kinds.pop(0)}

    with pytest.raises(ClientGone):
        async with Patience(Deadline.after(BOUND_S), receive):
            await asyncio.Event().wait()


async def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(RateLimited):
        async with Patience(Deadline.after(BOUND_S), Line().receive):
            raise RateLimited("later")


async def test_a_timeout_of_the_body_itself_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(Deadline.after(BOUND_S), Line().receive), asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_a_cancellation() -> None:
    entered = asyncio.Event()

    async def wait() -> None:
        async with Patience(Deadline.after(BOUND_S), Line().receive):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("is_gone", [True, False])
async def test_nobody_watches_the_line_once_the_body_is_over(is_gone: bool) -> None:
    line = Line()
    before = asyncio.all_tasks()

    async def body() -> None:
        if not is_gone:
            raise RateLimited("later")
        line.hang_up()
        await asyncio.Event().wait()

    with pytest.raises((ClientGone, RateLimited)):
        async with Patience(Deadline.after(BOUND_S), line.receive):
            await body()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "text",
    [
        "inf",
        "-inf",
        "Infinity",
        "nan",
        "-1",
        "0",
        "0.0",
        "",
        " 5",
        "5 ",
        "1_000",
        "+5",
        "1e999",
        "0x10",
        "five",
        "\u0665",
    ],
)
def test_a_patience_that_is_no_positive_number_is_refused_by_its_header(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        positive_number(text, "x-request-timeout-ms")
    assert (refused.value.param, refused.value.code) == ("x-request-timeout-ms", "invalid_value")


@pytest.mark.parametrize(("text", "value"), [("600", 600), ("0.5", 0.5), ("600.0", 600), ("1e-05", 1e-05)])
def test_a_patience_is_read_as_clients_write_it(text: str, value: float) -> None:
    assert positive_number(text, "x-stainless-read-timeout") == value
