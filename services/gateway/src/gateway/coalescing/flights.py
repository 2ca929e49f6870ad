"""Brings answers: of all calls for the same one, on any replica, one asks inference and the others wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from common.background import end
from common.errors import DeadlineExceeded, ServiceError
from common.streams.event_stream import AlreadyToldError
from common.telemetry import trace_context
from gateway import tracing
from gateway.caching.cache_client import CacheClient, Follow, Found, Lead
from gateway.caching.hot_entries import Hit, HotEntries
from gateway.coalescing import frames
from gateway.coalescing.flight import Failure, Flight, FlightLostError
from gateway.coalescing.frames import FrameSealer
from gateway.coalescing.leadership import Leadership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from typing import Any

    from common.identity import HopIdentity
    from gateway.caching.cache_control import Plan
    from gateway.caching.sealing import Sealer
    from gateway.call import Call
    from gateway.coalescing.flight_client import FlightClient

logger = logging.getLogger(__name__)

ANNOUNCE_S = 0.25
"""What an error waits at most until the followers of other replicas know of it."""
MOST_LOOKS = 5
"""Of one flight: a leader may die, a connection may break; after that its waiters are on their own."""


class Work(Protocol):
    """What has to be done for one kind of answer."""

    @property
    def name(self) -> str:
        """The fingerprint under which calls for the same answer meet."""

    async def fetch(self, flight: Flight, call: Call) -> Failure | None:
        """Ask inference in the name of `call` and feed the flight until it lands, or return why it will not.

        Raises `ServiceError`. Sets the usage of the call's reservation, whatever happens.
        """

    def is_worth_keeping(self, flight: Flight) -> bool: ...

    def keep(self, flight: Flight, call: Call, lease: str) -> bool:
        """Store it in the background; True if the lease, where one is named, will end with that."""


@dataclass(slots=True)
class _Trip:
    """A flight and what its feeder knows."""

    flight: Flight
    plan: Plan
    work: Work
    identity: HopIdentity
    """Of the call that started it: whose key is shown to the cache; the tenant is the same for all who wait."""
    failed_id: str
    leadership: Leadership | None = None
    sealers: dict[str, FrameSealer] = field(default_factory=dict)


class Flights:
    def __init__(self, cache: CacheClient, client: FlightClient, sealer: Sealer, hot: HotEntries) -> None:
        self._cache = cache
        self._client = client
        self._sealer = sealer
        self._hot = hot
        self._open: dict[tuple[str, str, float | None], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def board(self, call: Call, plan: Plan, work: Work, *, failed_id: str = "") -> Flight:
        """The flight that brings the answer, joined or started; the caller leaves it when it is done with it.

        `failed_id` is the flight that failed the caller: this one is its second and last try.
        """
        key = (call.identity.tenant, work.name, plan.max_age_s)
        flight = self._open.get(key) if plan.looks else None
        if flight is None or not flight.may_be_joined_by(call):
            flight = Flight()
            trip = _Trip(flight, plan, work, call.identity, failed_id)
            flight.board(call)
            if plan.looks:
                self._open[key] = flight
            task = self._spawn(self._fly(trip, key))
            flight.deserted = lambda: self._desert(trip, task)
        else:
            flight.board(call)
        return flight

    @contextlib.asynccontextmanager
    async def flying(self) -> AsyncIterator[None]:
        """End within: what is still under way at the end is given up, and followers elsewhere take over."""
        try:
            yield
        finally:
            await end(*self._tasks)

    @property
    def count(self) -> int:
        return len(self._open)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _desert(self, trip: _Trip, task: asyncio.Task[None]) -> None:
        async def cancel_if_nobody_waits() -> None:
            if trip.leadership is not None and not await trip.leadership.let_go():
                return
            if not trip.flight.waiting and not trip.flight.has_ended:
                task.cancel()

        self._spawn(cancel_if_nobody_waits())

    async def _fly(self, trip: _Trip, key: tuple[str, str, float | None]) -> None:
        flight = trip.flight
        try:
            await self._bring(trip)
        except ServiceError as error:
            flight.fail(Failure.of(error))
        except Exception as error:  # the outermost edge of a task that nobody awaits: its waiters have to hear of it
            logger.exception("unexpected_error", extra={"error_type": type(error).__name__})
            flight.fail(Failure.of(ServiceError("An internal error occurred.")))
        finally:
            if self._open.get(key) is flight:
                del self._open[key]
            flight.lose()

    async def _bring(self, trip: _Trip) -> None:
        for _ in range(MOST_LOOKS):
            started = time.perf_counter()
            found = await self._look(trip)
            if isinstance(found, Follow):
                if await self._follow(trip, found):
                    return
            elif isinstance(found, Hit) and not trip.flight.count:
                trip.flight.land_on(found)
                return
            else:
                break
        lease = found.flight if isinstance(found, Lead) else ""
        if trip.flight.count or not trip.flight.waiting:  # no second answer continues the first one
            if lease:
                await self._client.release(trip.work.name, lease, trip.identity, unless_followed=False)
            return
        trip.flight.leader = trip.flight.most_patient()
        with tracing.within(trip.flight.leader.trace_context):
            await self._lead(trip, trip.flight.leader, lease, started)

    async def _look(self, trip: _Trip) -> Found:
        if not trip.plan.looks or not trip.flight.waiting:
            return None
        call = trip.flight.most_patient()
        found = await self._cache.look_up(
            trip.work.name,
            identity=call.identity,
            request_id=call.request_id,
            leads=not call.is_hurried,
            failed_id=trip.failed_id,
            max_age_s=trip.plan.max_age_s,
        )
        if isinstance(found, Hit):
            self._hot.remember(call.identity.tenant, trip.work.name, found)
        return found

    # -- another replica's -------------------------------------------------------------------------------------------

    async def _follow(self, trip: _Trip, found: Follow) -> bool:
        """Whether that brought the flight to its end; else it is to be looked up again."""
        if found.flight not in trip.sealers and trip.flight.count:
            return False
        trip.flight.id = found.flight
        identity = trip.identity
        sealer = trip.sealers.setdefault(
            found.flight,
            FrameSealer(self._sealer, tenant=identity.tenant, name=trip.work.name, flight=found.flight),
        )
        with contextlib.suppress(FlightLostError):
            async with contextlib.aclosing(
                self._client.frames(trip.work.name, found, identity, first=sealer.count)
            ) as sealed:
                async for frame in sealed:
                    frames.feed(trip.flight, sealer.open(frame))
                    if trip.flight.has_ended:
                        return True
        return False

    # -- our own -----------------------------------------------------------------------------------------------------

    async def _lead(self, trip: _Trip, call: Call, lease: str, looked_since: float) -> None:
        flight = trip.flight
        flight.traceparent = trace_context.traceparent()
        if trip.plan.looks:
            call.timings.record("cache", looked_since)
        call.reservation.hold()
        try:
            if lease:
                self._take_lease(trip, lease, call)
            failure = await self._fetch(trip, call)
            if failure is not None:
                await self._fail(trip, failure)
            else:
                await self._finish(trip, call, lease)
        except BaseException:
            if trip.leadership is not None:
                await trip.leadership.give_up()
            raise
        finally:
            call.reservation.release()
            if trip.leadership is not None:
                await trip.leadership.stop()

    def _take_lease(self, trip: _Trip, lease: str, call: Call) -> None:
        trip.flight.id = lease
        name, identity = trip.work.name, call.identity
        sealer = FrameSealer(self._sealer, tenant=identity.tenant, name=name, flight=lease)
        trip.leadership = Leadership(trip.flight, self._client, sealer, name=name, identity=identity)
        self._spawn(trip.leadership.attend())

    async def _fetch(self, trip: _Trip, call: Call) -> Failure | None:
        try:
            async with asyncio.timeout(max(call.deadline.remaining_s(), 0)):
                return await trip.work.fetch(trip.flight, call)
        except TimeoutError:
            return Failure.of(DeadlineExceeded("The request's deadline passed."))
        except ServiceError as error:
            return Failure.of(error, is_told=isinstance(error, AlreadyToldError))

    async def _fail(self, trip: _Trip, failure: Failure) -> None:
        """Tell those who follow elsewhere first: else somebody here would lead again before they know why."""
        if trip.leadership is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_S):
                    await trip.leadership.end("closed", failure)
        trip.flight.fail(failure)

    async def _finish(self, trip: _Trip, call: Call, lease: str) -> None:
        """Let those who follow have the end, and the cache the entry; either ends the lease."""
        flight, work, leadership = trip.flight, trip.work, trip.leadership
        is_kept = trip.plan.keeps and work.is_worth_keeping(flight)
        if leadership is None or not leadership.is_held:
            if is_kept:
                work.keep(flight, call, "")
        elif leadership.is_followed or not is_kept:
            await leadership.end("ok" if is_kept else "closed")
            if is_kept:
                work.keep(flight, call, "")
        elif not work.keep(flight, call, lease):
            await leadership.end("closed")
