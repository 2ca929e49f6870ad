from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RateLimited, UpstreamFailed
from gateway.coalescing import frames
from gateway.coalescing.flight import Failure, Flight, FlightLostError, Head
from gateway.coalescing.frames import FrameSealer
from support.cache_service import BOUND_S, SEALER


async def read(flight: Flight) -> list[bytes]:
    async with asyncio.timeout(BOUND_S):
        return [piece async for piece in flight.pieces()]


async def test_everybody_reads_all_pieces_whenever_they_come() -> None:
    flight = Flight()
    early = asyncio.create_task(read(flight))
    flight.take_off(Head(is_stream=True))
    flight.add(b"a")
    await asyncio.sleep(0)
    late = asyncio.create_task(read(flight))
    flight.add(b"b")
    flight.land()
    assert await early == await late == await read(flight) == [b"a", b"b"]
    assert flight.content() == b"ab"


async def test_a_flight_has_begun_with_its_first_piece_and_not_with_its_head() -> None:
    flight = Flight()
    beginning = asyncio.create_task(flight.began())
    flight.take_off(Head(is_stream=True))
    await asyncio.sleep(0)
    assert not beginning.done()
    flight.add(b"a")
    await beginning


async def test_a_slow_reader_is_dropped_and_slows_nobody() -> None:
    flight = Flight(max_bytes=10)
    slow = flight.pieces()
    flight.add(b"12345")
    assert await anext(slow) == b"12345"
    fast = asyncio.create_task(read(flight))
    await asyncio.sleep(0)
    for _ in range(3):
        flight.add(b"12345")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    flight.land()
    assert await fast == [b"12345"] * 4
    with pytest.raises(FlightLostError):
        await anext(slow)
    with pytest.raises(FlightLostError):
        flight.content()
    assert not flight.is_whole_yet


async def test_one_piece_that_is_larger_than_the_bound_still_arrives() -> None:
    flight = Flight(max_bytes=10)
    flight.add(b"x" * 100)
    flight.land()
    assert flight.content() == b"x" * 100


async def test_a_failure_reaches_everybody_as_an_exception_of_its_own() -> None:
    flight = Flight()
    waiting = [asyncio.create_task(flight.began()) for _ in range(3)]
    await asyncio.sleep(0)
    flight.fail(Failure.of(UpstreamFailed("It broke.", code="why")))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    told = flight.failure
    assert told is not None
    assert told.error() is not told.error()
    assert (told.error().status, told.error().code, told.error().type) == (502, "why", "upstream_error")


async def test_the_first_end_is_the_end() -> None:
    flight = Flight()
    flight.add(b"a")
    flight.land()
    flight.lose()
    flight.fail(Failure(500, b""))
    assert await read(flight) == [b"a"]


@pytest.mark.parametrize(("status", "is_shared"), [(400, True), (422, True), (429, False), (500, False), (504, False)])
def test_only_what_everybody_would_get_is_shared_at_once(status: int, is_shared: bool) -> None:
    assert Failure(status, b"{}").is_shared is is_shared


def test_an_error_that_is_no_envelope_is_still_one() -> None:
    assert Failure(502, b"<html>").error().status == 502


# -- frames ------------------------------------------------------------------------------------------------------------


def sealer(**other: str) -> FrameSealer:
    return FrameSealer(SEALER, **({"tenant": "alice", "name": "0" * 64, "flight": "f" * 32} | other))


def landed(*sent: bytes) -> Flight:
    follower = Flight()
    opening = sealer()
    for sealed in sent:
        frames.feed(follower, opening.open(sealed))
    return follower


PIECES = st.lists(st.binary(max_size=20), max_size=6)


@given(pieces=PIECES, is_stream=st.booleans())
def test_a_follower_has_what_the_leader_had(pieces: list[bytes], is_stream: bool) -> None:
    sealing = sealer()
    head = Head(is_stream, {"x-upstream-attempts": "2"})
    traceparent = f"00-{1:032x}-{2:016x}-01"
    sent = [sealing.seal(frames.head(head, traceparent)), *(sealing.seal(frames.pieces([piece])) for piece in pieces)]
    follower = landed(*sent, sealing.seal(frames.ending(None)))
    assert (follower.head, follower.content(), follower.has_ended) == (head, b"".join(pieces), True)
    assert follower.traceparent == traceparent


def test_a_failure_travels_with_its_status_body_and_headers() -> None:
    sealing = sealer()
    failure = Failure.of(RateLimited("Later.", headers={"retry-after": "7"}), is_told=True)
    assert landed(sealing.seal(frames.ending(failure))).failure == failure


@pytest.mark.parametrize(
    "change",
    [
        lambda sent: [sent[1], sent[0]],
        lambda sent: [sent[0], sent[0]],
        lambda sent: [sent[1]],
        lambda sent: [sent[0], sent[1][:-1]],
        lambda sent: [sent[0], sent[1] + b"x"],
        lambda sent: [sent[0][:0]],
    ],
)
def test_a_frame_out_of_its_place_or_damaged_loses_the_flight(change: Any) -> None:
    sealing = sealer()
    sent = [sealing.seal(frames.head(Head(is_stream=True), "")), sealing.seal(frames.pieces([b"a"]))]
    with pytest.raises(FlightLostError):
        landed(*change(sent))


@pytest.mark.parametrize("other", [{"tenant": "bob"}, {"name": "1" * 64}, {"flight": "e" * 32}])
def test_a_frame_opens_for_no_other_tenant_request_or_flight(other: dict[str, str]) -> None:
    with pytest.raises(FlightLostError):
        landed(sealer(**other).seal(frames.pieces([b"a"])))


@pytest.mark.parametrize("frame", [b"?", b"h{", b'h{"x":1}', b"x{}", b"xnull"])
def test_what_is_sealed_and_still_no_frame_loses_the_flight(frame: bytes) -> None:
    with pytest.raises(FlightLostError):
        landed(sealer().seal(frame))
