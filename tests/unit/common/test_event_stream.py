from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from common.errors import ClientGone, DeadlineExceeded, ServiceError, UpstreamFailed
from common.streams import sse
from common.streams.event_stream import AlreadyToldError, ChatRelay, EventStream
from common.streams.sse import ChatStream
from common.streams.watchdog import Watchdog
from support.asgi import Line, http_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Generator

BOUND_S = 5
TOKEN = sse.event(b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}')
END = sse.event(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
DONE = sse.event(b"[DONE]")
ERROR = sse.event(b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}')


async def chunks_of(*parts: bytes | BaseException) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        yield part


async def relayed(*parts: bytes | BaseException) -> tuple[bytes, ServiceError | None]:
    out = b""
    try:
        async for events in ChatRelay(chunks_of(*parts), ChatStream(), Watchdog(BOUND_S)):
            out += events
    except ServiceError as error:
        return out, error
    return out, None


async def test_a_whole_answer_passes_unchanged() -> None:
    assert await relayed(TOKEN[:9], TOKEN[9:] + END, DONE) == (TOKEN + END + DONE, None)


async def test_a_complete_answer_without_done_is_given_one() -> None:
    assert await relayed(TOKEN + END) == (TOKEN + END + DONE, None)


async def test_done_is_never_sent_for_an_answer_without_its_finish_reason() -> None:
    out, error = await relayed(TOKEN + DONE)
    assert out == TOKEN
    assert error is not None


async def test_done_is_never_sent_behind_an_error_event() -> None:
    out, error = await relayed(ERROR + DONE)
    assert out == ERROR
    assert isinstance(error, AlreadyToldError)


@pytest.mark.parametrize("ending", [httpx2.ReadError("reset"), TimeoutError()])
async def test_an_answer_that_is_whole_stays_whole_however_its_connection_ends(ending: BaseException) -> None:
    assert await relayed(TOKEN + END + DONE, ending) == (TOKEN + END + DONE, None)


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        ([], 502, "stream_interrupted"),
        ([DONE], 502, "stream_interrupted"),
        ([END[:-1]], 502, "stream_interrupted"),
        ([httpx2.ReadError("cut")], 502, "stream_interrupted"),
        ([httpx2.RemoteProtocolError("garbled")], 502, "stream_interrupted"),
        ([httpx2.ReadTimeout("silent")], 504, "stream_stalled"),
        ([TimeoutError()], 504, "stream_stalled"),
        ([sse.event(b'{"finish_reason":"stop"')], 502, "stream_malformed"),
    ],
)
async def test_an_answer_that_does_not_end_well_raises_after_its_whole_events(
    ending: list[bytes | BaseException], status: int, code: str
) -> None:
    out, error = await relayed(TOKEN, *ending)
    assert out.startswith(TOKEN)
    assert sse.DONE not in out.removeprefix(TOKEN + DONE)
    assert error is not None
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("ending", [[], [DONE], [END, DONE], [httpx2.ReadError("cut")]])
async def test_an_error_event_is_passed_on_and_not_told_twice(ending: list[bytes | BaseException]) -> None:
    out, error = await relayed(TOKEN, ERROR, *ending)
    assert out.startswith(TOKEN + ERROR)
    assert isinstance(error, AlreadyToldError)


class Finish:
    """What `finish` was given, and how often."""

    def __init__(self) -> None:
        self.errors: list[ServiceError | None] = []

    async def __call__(self, error: ServiceError | None) -> None:
        await asyncio.sleep(0)  # as closing a response does
        self.errors.append(error)


async def test_a_stream_that_is_sent_whole_ends_well() -> None:
    line, finish = Line(), Finish()
    stream = EventStream(chunks_of(TOKEN, END, DONE), finish=finish, headers={"x-cache": "bypass"})
    await stream(http_scope(), line.receive, line.send)
    assert line.body == TOKEN + END + DONE
    assert line.ended_well
    assert finish.errors == [None]
    headers = dict(line.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache, no-transform"
    assert headers[b"x-cache"] == b"bypass"


class Counted:
    """Awaits what it is given, and counts how often that is woken."""

    def __init__(self, work: Awaitable[None]) -> None:
        self._steps = work.__await__()
        self.wakes = 0

    def __await__(self) -> Generator[Any, None, None]:
        for step in self._steps:
            self.wakes += 1
            yield step


async def test_a_chunk_wakes_nothing_of_the_application_around_the_stream() -> None:
    line, finish = Line(), Finish()

    async def one_by_one() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0)
            yield TOKEN

    application = Counted(EventStream(one_by_one(), finish=finish)(http_scope(), line.receive, line.send))
    await application
    assert line.body == TOKEN * 100
    assert application.wakes < 5


async def test_a_stream_that_breaks_says_so_and_ends_abnormally() -> None:
    line, finish = Line(), Finish()
    broken = UpstreamFailed("The answer broke off.", code="stream_interrupted")
    await EventStream(chunks_of(TOKEN, broken), finish=finish)(http_scope(), line.receive, line.send)
    last = line.body.removeprefix(TOKEN)
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
    assert not line.ended_well
    assert finish.errors == [broken]


async def test_an_error_that_was_passed_on_gets_no_second_event() -> None:
    line, finish = Line(), Finish()
    await EventStream(chunks_of(ERROR, AlreadyToldError("no")), finish=finish)(http_scope(), line.receive, line.send)
    assert line.body == ERROR
    assert not line.ended_well


async def test_a_client_that_leaves_cancels_the_work_at_once_and_finish_is_told() -> None:
    line, finish = Line(), Finish()
    was_closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield TOKEN
            line.hang_up()
            await asyncio.Event().wait()
        finally:
            was_closed.set()

    async with asyncio.timeout(BOUND_S):
        await EventStream(endless(), finish=finish)(http_scope(), line.receive, line.send)
    assert was_closed.is_set()
    assert [type(error) for error in finish.errors] == [ClientGone]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_server_that_stops_is_not_taken_for_a_client_that_leaves() -> None:
    line, finish = Line(), Finish()
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield TOKEN
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(EventStream(endless(), finish=finish)(http_scope(), line.receive, line.send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(finish.errors) == 1


async def test_a_client_that_leaves_with_the_last_chunk_does_no_harm() -> None:
    line, finish = Line(), Finish()

    async def last() -> AsyncIterator[bytes]:
        yield TOKEN
        line.hang_up()
        for _ in range(3):
            await asyncio.sleep(0)

    async with asyncio.timeout(BOUND_S):
        await EventStream(last(), finish=finish)(http_scope(), line.receive, line.send)
    assert len(finish.errors) == 1


@pytest.mark.parametrize("turns", range(6))
async def test_a_client_that_leaves_while_a_broken_stream_says_so_does_no_harm(turns: int) -> None:
    line, finish = Line(), Finish()

    async def broken() -> AsyncIterator[bytes]:
        yield TOKEN
        line.hang_up()
        for _ in range(turns):
            await asyncio.sleep(0)
        raise DeadlineExceeded("late")

    async with asyncio.timeout(BOUND_S):
        await EventStream(broken(), finish=finish)(http_scope(), line.receive, line.send)
    assert len(finish.errors) == 1
