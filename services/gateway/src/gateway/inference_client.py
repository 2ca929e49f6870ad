"""Sends a call to the inference service and returns its answer with the status and first bytes known."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import httpx2

from common import wire
from common.errors import DeadlineExceeded, Unavailable
from gateway.admission.turnstile import UNBOUNDED, Turnstile
from gateway.errors import InferenceUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from common.deadline import Deadline
    from common.identity import HopIdentity, HopSigner
    from gateway.admission.concurrency import Verdict
    from gateway.admission.turnstile import Slot
    from gateway.call import Call

CONNECT_S = 0.5
"""Both tries share it: with all of inference dead a caller knows within 600 ms."""
_CONNECT_TRIES = 2
_HOP_REFUSED = 401


FAIR_WAIT_S = 30
"""A first byte that took longer says something of the model; one that a caller would not wait for does not."""
_TOO_MUCH = frozenset({429, 503})
_TIMED_OUT = 504


class InferenceClient:
    def __init__(self, client: httpx2.AsyncClient, signer: HopSigner, turnstile: Turnstile | None = None) -> None:
        self._client = client
        self._signer = signer
        self._turnstile = turnstile or Turnstile(UNBOUNDED)
        self._urls: dict[str, httpx2.URL] = {}

    async def send(self, call: Call, *, sending: Callable[[], None] = lambda: None) -> httpx2.Response:
        """Return the open response; the caller closes it, and its slot is free again once it is closed. `sending` is
        called when the request is about to leave: before that nobody has worked for it.

        Raises `Overloaded` or `BatchOverloaded` (no slot in time), `InferenceUnreachable`, `Unavailable` or
        `DeadlineExceeded`. A second try is made only when no byte of the request was sent: inference alone retries what
        may have run.
        """
        patience_s = call.deadline.budget_s()
        arrived = time.perf_counter()
        slot = await self._turnstile.enter(call.identity, call.model, call.decision, patience_s=patience_s)
        if slot.has_waited:
            call.timings.record("queue", arrived)
        try:
            budget_s = call.deadline.budget_s()
            headers = self._headers(call.identity, call.request_id, call.deadline) | {"content-type": wire.JSON}
            if call.caller.is_replay:
                headers[wire.MAX_ATTEMPTS] = "1"
            sending()
            response = await self._send(
                "POST",
                call.endpoint,
                headers=headers,
                content=call.payload,
                read_s=budget_s,
                is_stream=call.is_stream,
            )
        except BaseException as error:
            if isinstance(error, Unavailable) or (isinstance(error, DeadlineExceeded) and patience_s >= FAIR_WAIT_S):
                slot.verdict = "too_much"
            slot.release()
            raise
        slot.verdict = _verdict(response, patience_s)
        if response.is_closed:
            slot.release()
        response.stream = _Held(response.stream, slot)
        return response

    async def models(self, identity: HopIdentity, request_id: str, deadline: Deadline) -> httpx2.Response:
        headers = self._headers(identity, request_id, deadline)
        return await self._send("GET", "/v1/models", headers=headers, content=None, read_s=deadline.budget_s())

    async def _send(  # noqa: PLR0913  # all but two by keyword
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        content: bytes | None,
        read_s: float,
        is_stream: bool = False,
    ) -> httpx2.Response:
        """`is_stream`: only the answer's head is bounded. A read timeout would move a timer at each chunk."""
        connect_by = time.monotonic() + CONNECT_S
        for attempt in range(1, _CONNECT_TRIES + 1):
            connect_s = max(connect_by - time.monotonic(), 0.01)
            timeout = httpx2.Timeout(
                connect=connect_s, read=None if is_stream else read_s, write=read_s, pool=connect_s
            )
            request = self._client.build_request(
                method, self._url(path), headers=headers, content=content, timeout=timeout
            )
            try:
                async with asyncio.timeout(read_s if is_stream else None):
                    response = await self._client.send(request, stream=True)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if attempt == _CONNECT_TRIES or time.monotonic() >= connect_by:
                    raise InferenceUnreachable("The inference service cannot be reached.") from error
            except (httpx2.TimeoutException, TimeoutError) as error:
                raise DeadlineExceeded("The model did not answer in time.", headers=wire.FINAL) from error
            except httpx2.HTTPError as error:
                raise Unavailable("The inference service broke the connection.", headers=wire.FINAL) from error
            else:
                if response.status_code == _HOP_REFUSED:
                    await response.aclose()
                    raise InferenceUnreachable("The platform's services do not trust each other.", code="hop_refused")
                return response
        raise AssertionError("unreachable")

    def _url(self, path: str) -> httpx2.URL:
        if path not in self._urls:
            # Joined once for each of our few paths: httpx2 takes 60 us for it.
            self._urls[path] = self._client.build_request("GET", path).url
        return self._urls[path]

    def _headers(self, identity: HopIdentity, request_id: str, deadline: Deadline) -> dict[str, str]:
        headers = {
            "authorization": self._signer.authorization(identity),
            wire.REQUEST_ID: request_id,
            wire.TIMEOUT_MS: str(int(deadline.budget_s() * 1000)),
        }
        return headers if identity.priority == "interactive" else headers | {wire.PRIORITY: identity.priority}


def _verdict(response: httpx2.Response, patience_s: float) -> Verdict:
    if response.status_code in _TOO_MUCH:
        return "overloaded" if wire.DECISION in response.headers else "too_much"  # inference refused at its own door
    if response.status_code == _TIMED_OUT:
        return "too_much" if patience_s >= FAIR_WAIT_S else "unknown"
    return "clean"


class _Held(httpx2.AsyncByteStream):
    """A response's bytes; closing them, which whoever reads them does, gives the slot back."""

    def __init__(self, stream: httpx2.AsyncByteStream | httpx2.SyncByteStream, slot: Slot) -> None:
        self._stream = cast("httpx2.AsyncByteStream", stream)
        self._slot = slot

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._slot.release()
