"""Answers a call: from the cache, or from inference, with what the answer's headers say about it."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
from opentelemetry import trace
from starlette.responses import Response

from common import sse, wire
from common.deadline import Patience
from common.errors import DeadlineExceeded, ServiceError, UpstreamFailed
from common.event_stream import EventStream, relay_chat, watched
from common.usage import take_comment
from gateway.call import CHAT
from gateway.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive

    from gateway.cache_client import CacheClient
    from gateway.call import Call, ModelsCall
    from gateway.inference_client import InferenceClient

STREAM_GAP_S = 35
"""Longer than inference's own bound (30 s), which says more when it ends a stream."""
_OK = 200
_PASSED_ON = ("retry-after", wire.SHOULD_RETRY, wire.ATTEMPTS)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the upstream's status and body, and how it came about."""

    status: int
    body: bytes
    headers: dict[str, str]
    is_cached: bool = False

    def response(self) -> Response:
        return Response(self.body, self.status, self.headers, media_type=wire.JSON)


@dataclass(frozen=True, slots=True)
class Completions:
    cache: CacheClient
    inference: InferenceClient
    fingerprint_key: bytes
    entry_ttl_s: int
    max_entry_bytes: int

    async def answer(self, call: Call, receive: Receive) -> Answer:
        """Answer a call that is not streamed, as long as its caller waits."""
        async with Patience(call.deadline, receive):
            name = self._entry_name(call)
            if name is not None and "no-cache" not in call.cache_control:
                started = time.perf_counter()
                hit = await self.cache.get(name, identity=call.identity, request_id=call.request_id)
                call.timings.record("cache", started)
                if hit is not None:
                    headers = _headers(call, "hit") | {"age": str(hit.age_s), wire.ATTEMPTS: "0"}
                    return Answer(_OK, hit.value, headers, is_cached=True)
            started = time.perf_counter()
            response = await self.inference.send(call)
            body = await _read(response)
            call.timings.record("upstream", started)
        if response.status_code == _OK and name is not None and self._is_worth_keeping(body):
            self.cache.put(name, body, identity=call.identity, ttl_s=self._ttl_s())
        return Answer(response.status_code, body, _headers(call, "bypass" if name is None else "miss", response))

    async def stream(self, call: Call, receive: Receive) -> Response:
        """Answer a streamed call: an error answer as long as nothing was sent, else a stream of events."""
        started = time.perf_counter()
        async with Patience(call.deadline, receive):
            response = await self.inference.send(call)
            is_events = response.headers.get("content-type", "").startswith(wire.EVENT_STREAM)
            body = b"" if response.status_code == _OK and is_events else await _read(response)
        call.timings.record("upstream", started)
        headers = _headers(call, "bypass", response)
        if response.status_code != _OK or not is_events:
            return Answer(response.status_code, body, headers).response()

        async def finish(error: ServiceError | None) -> None:
            await response.aclose()
            call.log["outcome"] = "done" if error is None else error.code

        return EventStream(_relay(response, call), finish=finish, headers=headers)

    async def models(self, call: ModelsCall, receive: Receive) -> Answer:
        """The models that the key may ask for."""
        async with Patience(call.deadline, receive):
            response = await self.inference.models(call.identity, call.request_id, call.deadline)
            body = await _read(response)
        return Answer(response.status_code, body, _passed_on(response))

    def _entry_name(self, call: Call) -> str | None:
        if call.endpoint != CHAT or "no-store" in call.cache_control:
            return None
        body: dict[str, Any] = dict(call.body)
        return fingerprint(self.fingerprint_key, tenant=call.identity.tenant, endpoint=call.endpoint, body=body)

    def _is_worth_keeping(self, body: bytes) -> bool:
        """Only an answer that is whole is kept: valid, and every choice of it finished."""
        if len(body) > self.max_entry_bytes:
            return False
        try:
            choices = orjson.loads(body)["choices"]
            return bool(choices) and all(choice["finish_reason"] for choice in choices)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return False

    def _ttl_s(self) -> int:
        # ± 10 %, so that entries of one burst do not all end in one moment
        return max(1, round(self.entry_ttl_s * random.uniform(0.9, 1.1)))  # noqa: S311  # spread, not secrecy


async def _read(response: httpx2.Response) -> bytes:
    try:
        return await response.aread()
    except httpx2.TimeoutException as error:
        raise DeadlineExceeded("The model did not answer in time.", headers=wire.FINAL) from error
    except httpx2.HTTPError as error:
        raise UpstreamFailed("The answer broke off before its end.", headers=wire.FINAL) from error
    finally:
        await response.aclose()


async def _relay(response: httpx2.Response, call: Call) -> AsyncIterator[bytes]:
    chunks = watched(response.aiter_raw(), gap_s=STREAM_GAP_S, deadline=call.deadline)
    async for events in relay_chat(chunks, sse.ChatStream(call.choices)):
        shown, usage = take_comment(events)
        if usage is not None:
            call.reservation.usage = usage
        if shown:
            yield shown
        if call.deadline.remaining_s() <= 0:
            raise DeadlineExceeded("The request's deadline passed.")


def _headers(call: Call, outcome: wire.CacheOutcome, response: httpx2.Response | None = None) -> dict[str, str]:
    trace.get_current_span().set_attribute("spillway.cache.outcome", outcome)
    call.log["cache"] = outcome
    headers = {wire.CACHE: outcome, "server-timing": call.timings.header()}
    if response is not None:
        headers |= _passed_on(response)
    return headers


def _passed_on(response: httpx2.Response) -> dict[str, str]:
    return {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
