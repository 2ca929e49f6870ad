"""Fetches answers from inference for a flight, as they come: chat, streamed or not, and what is only passed through."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx2

from common import usage, wire
from common.errors import DeadlineExceeded, UpstreamFailed
from common.http_client import chunks_of
from common.streams import sse
from common.streams.event_stream import ChatRelay
from common.streams.watchdog import Watchdog
from gateway.answers.answer import OK, of_upstream, passed_on
from gateway.answers.chat_shapes import NotAChatAnswerError
from gateway.answers.metering import Meter
from gateway.caching.kept_chat import kept_stream, kept_whole
from gateway.call import CHAT
from gateway.coalescing.flight import Failure, Head
from gateway.errors import InferenceUnreachable
from gateway.strict_json import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.caching.entry_writer import EntryWriter
    from gateway.caching.hot_entries import HotEntries
    from gateway.call import Call
    from gateway.coalescing.flight import Flight
    from gateway.inference_client import InferenceClient

_TOO_MANY_REQUESTS = 429
STREAM_GAP_S = 35
"""Longer than inference's own bound (30 s), which says more when it ends a stream."""


@dataclass(slots=True)
class ChatWork:
    """Its answers are kept whole or as events, whichever came."""

    name: str
    inference: InferenceClient
    writer: EntryWriter
    hot: HotEntries
    name_for: Callable[..., str]
    """The fingerprint of the same request for another model: a fallback's answer is kept as that model's."""
    keeps: bool
    kept: bytes = b""

    async def fetch(self, flight: Flight, call: Call) -> Failure | None:
        return await fetch(self.inference, flight, replace(call, payload=self._payload(call)))

    def is_worth_keeping(self, flight: Flight) -> bool:
        """Only an answer that is whole is kept: valid, and every choice of it finished."""
        if flight.head is None or not flight.is_whole_yet:
            return False
        try:
            self.kept = (kept_stream if flight.head.is_stream else kept_whole)(flight.content())
        except NotAChatAnswerError:
            return False
        return True

    def keep(self, flight: Flight, call: Call, lease: str) -> bool:
        model = flight.head.headers.get(wire.MODEL, call.model) if flight.head else call.model
        name = self.name if model == call.model else self.name_for(model=model)
        self.hot.forget(call.identity.tenant, name)
        is_stored = self.writer.put(name, self.kept, identity=call.identity, flight=lease if name == self.name else "")
        return is_stored and name == self.name

    def _payload(self, call: Call) -> bytes:
        """A stream that is kept has its usage in it, asked for or not, so that it can answer whoever asks."""
        if not self.keeps or not call.is_stream or call.endpoint != CHAT:
            return call.payload
        options = call.body.get("stream_options") or {}
        return render({**call.body, "stream_options": {**options, "include_usage": True}})


async def fetch(inference: InferenceClient, flight: Flight, call: Call) -> Failure | None:
    """Ask inference and feed the flight with what it answers, or return the error that it answered.

    Raises `ServiceError`. Sets the usage of the call's reservation, whatever happens.
    """
    started = time.perf_counter()
    meter = Meter(call)
    failure = None
    try:
        response = await inference.send(call, sending=meter.sending)
        meter.was_at_work = response.status_code == OK
        if response.status_code == OK and response.headers.get("content-type", "").startswith(wire.EVENT_STREAM):
            call.timings.record("upstream", started)
            await _fetch_events(response, flight, call, meter)
        else:
            failure = await _fetch_whole(response, flight, call, meter, started)
    except InferenceUnreachable:
        meter.was_at_work = False
        raise
    finally:
        meter.settle()
    return failure


async def _fetch_events(response: httpx2.Response, flight: Flight, call: Call, meter: Meter) -> None:
    # No read timeout of the client's own: it would set a timer for each chunk.
    relay = ChatRelay(chunks_of(response), sse.ChatStream(call.choices), Watchdog(STREAM_GAP_S, call.deadline))
    try:
        flight.take_off(Head(is_stream=True, headers=passed_on(response.headers)))
        async for chunk in relay:
            if chunk == sse.DONE:
                flight.land()
            elif (events := meter.events(chunk)) and not flight.has_ended:
                flight.add(events)
    finally:
        await relay.aclose()
        await response.aclose()


async def _fetch_whole(
    response: httpx2.Response, flight: Flight, call: Call, meter: Meter, started: float
) -> Failure | None:
    body = await read_whole(response)
    call.timings.record("upstream", started)
    meter.report(response.headers.get(usage.HEADER))
    headers = passed_on(response.headers)
    if response.status_code == _TOO_MANY_REQUESTS and wire.DECISION not in response.headers:
        body = of_upstream(body)
    if response.status_code != OK:
        if code := response.headers.get(wire.ERROR):
            headers[wire.ERROR] = code
        return Failure(response.status_code, body, headers)
    meter.body(body)
    flight.take_off(Head(is_stream=False, headers=headers))
    flight.add(body)
    flight.land()
    return None


async def read_whole(response: httpx2.Response) -> bytes:
    try:
        return await response.aread()
    except httpx2.TimeoutException as error:
        raise DeadlineExceeded("The model did not answer in time.", headers=wire.FINAL) from error
    except httpx2.HTTPError as error:
        raise UpstreamFailed("The answer broke off before its end.", headers=wire.FINAL) from error
    finally:
        await response.aclose()
