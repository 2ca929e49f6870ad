"""Answers a call: from the cache, from another's flight, or from inference, and says how in the answer's headers."""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from common import wire
from common.deadline import Patience
from common.errors import DeadlineExceeded, ServiceError, Unavailable, UpstreamFailed
from common.streams import sse
from common.streams.event_stream import AlreadyToldError, EventStream
from common.streams.watchdog import Watchdog
from common.telemetry.traces import note_error
from gateway import tracing
from gateway.answers.answer import OK, Answer, headers_of, passed_on
from gateway.answers.chat_shapes import NotAChatAnswerError, completion_of, events_of, without_usage
from gateway.answers.chat_work import ChatWork, read_whole
from gateway.answers.embeddings import ITEM, EmbeddingsWork, body_of, items_of
from gateway.caching.cache_client import MOST_AT_ONCE
from gateway.caching.cache_control import NotCached, Plan, plan_of
from gateway.caching.fingerprint import fingerprint
from gateway.caching.hot_entries import Hit
from gateway.caching.kept_chat import REPLAY, as_events, as_whole, includes_usage, replay
from gateway.call import EMBEDDINGS
from gateway.coalescing.flight import Failure, Flight, FlightFailedError, FlightLostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.responses import Response
    from starlette.types import Receive

    from gateway.caching.cache_client import CacheClient
    from gateway.caching.entry_writer import EntryWriter
    from gateway.caching.hot_entries import HotEntries
    from gateway.call import Call
    from gateway.coalescing.flights import Flights, Work
    from gateway.inference_client import InferenceClient

T = TypeVar("T")
NO_ATTEMPTS = {wire.ATTEMPTS: "0"}
MOST_LOSSES = 2


@dataclass(frozen=True, slots=True)
class Completions:
    cache: CacheClient
    inference: InferenceClient
    flights: Flights
    writer: EntryWriter
    hot: HotEntries
    fingerprint_key: bytes
    revision: Callable[[], str] = lambda: ""
    """Of the catalogue, if a change of it shall make earlier answers unknown."""
    outcomes: Counter[tuple[wire.CacheOutcome, str]] = field(default_factory=Counter)
    """What answers came to, as their `x-cache` says, by endpoint."""

    async def answer(self, call: Call, receive: Receive) -> Answer:
        """Answer a call that is not streamed, as long as its caller waits."""
        plan = plan_of(call)
        if call.endpoint == EMBEDDINGS:
            async with Patience(call.deadline, receive):
                return await self._embeddings(call, plan)
        work = self._work(call, plan)
        if (hit := self._remembered(call, plan, work)) is not None:
            return Answer(OK, _whole_of(hit.value), self._hit_headers(call, hit), is_cached=True)

        async with Patience(call.deadline, receive):
            return await self._brought(call, plan, work, lambda flight: self._landed(call, plan, flight))

    async def stream(self, call: Call, receive: Receive) -> Response:
        """Answer a streamed call: an error answer as long as nothing was sent, else a stream of events."""
        plan = plan_of(call)
        work = self._work(call, plan)
        if (hit := self._remembered(call, plan, work)) is not None:
            return self._replay(call, hit)

        async def read(flight: Flight) -> Response:
            await flight.began()
            if flight.head is not None and not flight.head.is_stream:
                await flight.landed()
            if flight.hit is not None:
                flight.leave(call)
                return self._replay(call, flight.hit)
            return self._sent_on(call, plan, flight)

        async with Patience(call.deadline, receive):
            found = await self._brought(call, plan, work, read)
        return found.response() if isinstance(found, Answer) else found

    async def models(self, call: Call, receive: Receive) -> Answer:
        """The models that the key may ask for."""
        async with Patience(call.deadline, receive):
            response = await self.inference.models(call.identity, call.request_id, call.deadline)
            body = await read_whole(response)
        return Answer(response.status_code, body, {} if response.is_success else passed_on(response.headers))

    # -- where it comes from -----------------------------------------------------------------------------------------

    def _named(self, call: Call, **other: Any) -> str:
        """The fingerprint of the call's request, or of one that differs in the named fields."""
        return fingerprint(
            self.fingerprint_key,
            tenant=call.identity.tenant,
            endpoint=call.endpoint,
            body={**call.body, **other},
            revision=self.revision(),
        )

    def _work(self, call: Call, plan: Plan) -> ChatWork:
        name = "" if plan.is_bypass else self._named(call)
        name_for = functools.partial(self._named, call)
        return ChatWork(name, self.inference, self.writer, self.hot, name_for, keeps=plan.keeps)

    async def _embeddings(self, call: Call, plan: Plan) -> Answer:
        items = items_of(call.body["input"])
        if len(items) > MOST_AT_ONCE and not plan.is_bypass:
            plan = plan.passed_by("batch-too-large")
        names = [] if plan.is_bypass else [self._named(call, input=item) for item in items]
        if plan.is_bypass:
            work: Work = self._work(call, plan)
        elif len(items) == 1:  # its entry is found, or its flight joined, in one call
            work = EmbeddingsWork(names[0], self.inference, self.writer, items, names, [None])
            if (hit := self._remembered(call, plan, work)) is not None:
                return Answer(OK, _whole_of(hit.value), self._hit_headers(call, hit), is_cached=True)
            if not plan.looks:
                self.hot.forget(call.identity.tenant, names[0])
        else:
            started = time.perf_counter()
            found = await self._kept_items(call, plan, names)
            if all(found):
                call.timings.record("cache", started)
                oldest_s = max(hit.age_s for hit in found if hit is not None)
                headers = self._hit_headers(call, Hit(b"", oldest_s))
                return Answer(OK, body_of([hit.value for hit in found if hit is not None]), headers, is_cached=True)
            if plan.only_if_cached:
                raise self._not_cached(call)
            call.decision.note("cached_items", f"{len(found) - found.count(None)}/{len(found)}")
            name = self._named(call)
            work = EmbeddingsWork(name, self.inference, self.writer, items, names, found)
        return await self._brought(call, plan, work, lambda flight: self._landed(call, plan, flight))

    async def _kept_items(self, call: Call, plan: Plan, names: list[str]) -> list[Hit | None]:
        if not plan.looks:
            return [None] * len(names)
        return await self.cache.get_many(
            names, identity=call.identity, request_id=call.request_id, max_age_s=plan.max_age_s
        )

    def _remembered(self, call: Call, plan: Plan, work: Work) -> Hit | None:
        if not plan.looks:
            return None
        started = time.perf_counter()
        hit = self.hot.get(call.identity.tenant, work.name)
        if hit is None or (plan.max_age_s is not None and hit.age_s > plan.max_age_s):
            return None
        call.timings.record("cache", started)
        return hit

    async def _brought(self, call: Call, plan: Plan, work: Work, read: Callable[[Flight], Awaitable[T]]) -> T | Answer:
        """What `read` makes of a flight, which it leaves if it returns; or the error answer.

        A flight that failed is tried once more by one of those who followed it; whose own call failed has tried.
        """
        if plan.only_if_cached:
            return await self._only_cached(call, plan, work, read)
        failed_id = ""
        losses = 0
        while True:
            boarded = time.perf_counter()
            flight = self.flights.board(call, plan, work, failed_id=failed_id)
            try:
                await flight.began()
                if flight.leader is not call:
                    call.timings.record("cache", boarded)
                return await read(flight)
            except FlightFailedError as failed:
                flight.leave(call)
                if flight.leader is call or failed_id or failed.failure.is_shared:
                    return self._failed(call, plan, flight, failed.failure)
                failed_id = flight.id
            except FlightLostError:
                flight.leave(call)
                losses += 1
                if losses > MOST_LOSSES:
                    raise Unavailable("The service is stopping.", code="draining") from None
                if losses == MOST_LOSSES:
                    plan = plan.alone()
            except BaseException:
                flight.leave(call)
                raise

    async def _only_cached(self, call: Call, plan: Plan, work: Work, read: Callable[[Flight], Awaitable[T]]) -> T:
        if not plan.looks:
            raise self._not_cached(call)
        started = time.perf_counter()
        found = await self.cache.look_up(
            work.name, identity=call.identity, request_id=call.request_id, joins=False, max_age_s=plan.max_age_s
        )
        call.timings.record("cache", started)
        if not isinstance(found, Hit):
            raise self._not_cached(call)
        flight = Flight()
        flight.land_on(found)
        return await read(flight)

    def _not_cached(self, call: Call) -> NotCached:
        headers = {**self._headers_of(call, "miss", NO_ATTEMPTS, "only-if-cached"), **wire.FINAL}
        return NotCached("No answer to this request is in the cache.", headers=headers)

    # -- how it is told ----------------------------------------------------------------------------------------------

    async def _landed(self, call: Call, plan: Plan, flight: Flight) -> Answer:
        await flight.landed()
        flight.leave(call)
        return self._whole(call, plan, flight)

    def _whole(self, call: Call, plan: Plan, flight: Flight) -> Answer:
        if flight.hit is not None:
            return Answer(OK, _whole_of(flight.hit.value), self._hit_headers(call, flight.hit), is_cached=True)
        content = flight.content()
        if flight.head is not None and flight.head.is_stream:
            content = _told(lambda: orjson.dumps(completion_of(content)))
        return Answer(OK, content, self._flight_headers(call, plan, flight))

    def _sent_on(self, call: Call, plan: Plan, flight: Flight) -> Response:
        wants_usage = includes_usage(call.body)
        headers = self._flight_headers(call, plan, flight)

        async def finish(error: ServiceError | None) -> None:
            flight.leave(call)
            call.log["outcome"] = "done" if error is None else error.own_code

        if flight.head is not None and not flight.head.is_stream:
            content = flight.content()
            flight.leave(call)
            events = _told(lambda: b"".join(events_of(orjson.loads(content), include_usage=wants_usage)))
            return EventStream(replay(events, is_paced=False), finish=finish, headers=headers)
        strips = plan.keeps and not wants_usage  # then it was asked for in the name of those who may come later
        return EventStream(_relay(flight, call, strips=strips), finish=finish, headers=headers)

    def _replay(self, call: Call, hit: Hit) -> Response:
        events = _told(lambda: as_events(hit.value, include_usage=includes_usage(call.body)))

        async def finish(error: ServiceError | None) -> None:
            call.log["outcome"] = "done" if error is None else error.own_code

        is_paced = call.headers.get(REPLAY) == "paced"
        return EventStream(replay(events, is_paced=is_paced), finish=finish, headers=self._hit_headers(call, hit))

    def _headers_of(
        self, call: Call, outcome: wire.CacheOutcome, further: Mapping[str, str], why: str = ""
    ) -> dict[str, str]:
        self.outcomes[outcome, call.endpoint] += 1
        return headers_of(call, outcome, further, why)

    def _hit_headers(self, call: Call, hit: Hit) -> dict[str, str]:
        why = "memory" if hit.is_remembered else ""
        return self._headers_of(call, "hit", {"age": str(hit.age_s), **NO_ATTEMPTS}, why)

    def _flight_headers(
        self, call: Call, plan: Plan, flight: Flight, further: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        headers = dict(flight.head.headers) if flight.head is not None else {}
        headers |= further or {}
        if flight.leader is call:
            return self._headers_of(call, "bypass" if plan.is_bypass else "miss", headers, plan.why)
        tracing.link_to_leader(flight.traceparent, call.log)
        return self._headers_of(call, "coalesced", headers | NO_ATTEMPTS)

    def _failed(self, call: Call, plan: Plan, flight: Flight, failure: Failure) -> Answer:
        told = dict(failure.headers)
        if code := told.pop(wire.ERROR, ""):
            call.log["code"] = code
            call.decision.note("outcome", code)
            note_error(code)
        headers = self._flight_headers(call, plan, flight, told)
        return Answer(failure.status, failure.body, headers)


def _whole_of(kept: bytes) -> bytes:
    return _told(lambda: body_of([kept]) if kept[:1] == ITEM else as_whole(kept))


def _told(convert: Callable[[], bytes]) -> bytes:
    try:
        return convert()
    except (NotAChatAnswerError, orjson.JSONDecodeError) as error:
        raise UpstreamFailed("The upstream's answer was not a chat completion.", headers=wire.FINAL) from error


async def _relay(flight: Flight, call: Call, *, strips: bool) -> AsyncIterator[bytes]:
    """The flight's events for one client. Raises `ServiceError` when it broke."""
    waiting = Watchdog(call.deadline.remaining_s(), call.deadline)
    try:
        async for events in flight.pieces(waiting):
            if shown := without_usage(events) if strips else events:
                yield shown
    except FlightFailedError as failed:
        if failed.failure.is_told:
            raise AlreadyToldError("The upstream reported an error.") from None
        raise failed.failure.error() from None
    except FlightLostError:
        raise UpstreamFailed("The answer broke off before its end.", code="stream_interrupted") from None
    except TimeoutError:
        raise DeadlineExceeded("The request's deadline passed.") from None
    finally:
        waiting.close()
    yield sse.DONE
