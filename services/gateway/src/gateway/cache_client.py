"""Asks the cache service for sealed answers and gives it new ones. Every fault of it is a miss, within its budget."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from opentelemetry import context as otel_context

from common import wire
from gateway.sealing import SealBrokenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from opentelemetry.context import Context

    from common.identity import HopIdentity, HopSigner
    from gateway.sealing import Sealer

logger = logging.getLogger(__name__)

REST_AFTER_FAULTS = 5
"""Faults in a row after which the cache is not asked for a while."""
REST_S = 2.0
WRITERS = 4
GRACE_TURNS = 8
"""Of the event loop, after a get's time is up: see `_budget`."""
_OK = 200
_FOUND_NOTHING = 404


@dataclass(frozen=True, slots=True)
class Hit:
    value: bytes
    age_s: int


@dataclass(frozen=True, slots=True)
class _Put:
    fingerprint: str
    sealed: bytes
    ttl_s: int
    identity: HopIdentity
    context: Context
    """The trace of the request whose answer this is: its store joins it, sampled or not."""


class CacheClient:
    """The cache service as the gateway sees it: `get` within `timeout_s`, `put` in the background.

    After five faults in a row it is left alone for two seconds, so that a frozen cache costs few requests their 50 ms.
    """

    def __init__(  # noqa: PLR0913  # three parts and three bounds, all named
        self,
        client: httpx2.AsyncClient,
        signer: HopSigner,
        sealer: Sealer,
        *,
        timeout_s: float,
        put_queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._entries_url = str(client.build_request("GET", "/v1/entries/").url)
        self._signer = signer
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._clock = clock
        self._faults = 0
        self._rests_until = 0.0
        self._puts: asyncio.Queue[_Put] = asyncio.Queue(put_queue)
        self.dropped_puts = 0

    async def get(self, fingerprint: str, *, identity: HopIdentity, request_id: str) -> Hit | None:
        """Return the opened entry, or None: not there, not to be had in time, or not ours."""
        if self._clock() < self._rests_until:
            return None
        try:
            async with _budget(self._timeout_s):
                response = await self._client.get(self._url(fingerprint), headers=self._headers(identity, request_id))
            if response.status_code == _FOUND_NOTHING:
                self._faults = 0
                return None
            if response.status_code != _OK:
                self._fault(f"status {response.status_code}")
                return None
            value = self._sealer.open(response.content, tenant=identity.tenant, fingerprint=fingerprint)
            hit = Hit(value, max(int(response.headers.get("age", "0")), 0))
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            self._fault(type(error).__name__)
            return None
        except SealBrokenError:
            logger.warning("cache_entry_did_not_open", extra={"request_id": request_id})
            return None
        self._faults = 0
        return hit

    def put(self, fingerprint: str, value: bytes, *, identity: HopIdentity, ttl_s: int) -> None:
        """Store an answer later; drop it (and count) when too many wait already."""
        sealed = self._sealer.seal(value, tenant=identity.tenant, fingerprint=fingerprint)
        try:
            self._puts.put_nowait(_Put(fingerprint, sealed, ttl_s, identity, otel_context.get_current()))
        except asyncio.QueueFull:
            self.dropped_puts += 1

    @contextlib.asynccontextmanager
    async def writing(self, timeout_s: float) -> AsyncIterator[None]:
        """Run the background writers within the body; what waits at the end gets `timeout_s` to leave."""
        writers = [asyncio.create_task(self._write(timeout_s)) for _ in range(WRITERS)]
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._puts.join()
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)

    async def _write(self, timeout_s: float) -> None:
        while True:
            entry = await self._puts.get()
            token = otel_context.attach(entry.context)
            try:
                async with asyncio.timeout(timeout_s):
                    response = await self._client.put(
                        self._url(entry.fingerprint),
                        content=entry.sealed,
                        headers=self._headers(entry.identity, "") | {wire.ENTRY_TTL_S: str(entry.ttl_s)},
                    )
                if response.is_server_error:
                    self._fault(f"status {response.status_code}")
                elif response.is_error:  # this entry's fault, not the cache's
                    logger.warning("cache_put_refused", extra={"status": response.status_code})
            except (httpx2.HTTPError, TimeoutError) as error:
                self._fault(type(error).__name__)
            except Exception as error:  # a background loop has to outlive whatever one entry does to it
                logger.exception("cache_put_failed", extra={"error_type": type(error).__name__})
            finally:
                otel_context.detach(token)
                self._puts.task_done()

    def _url(self, fingerprint: str) -> str:
        return self._entries_url + fingerprint  # absolute: to join a relative one costs httpx2 two more parses, 30 us

    def _headers(self, identity: HopIdentity, request_id: str) -> dict[str, str]:
        headers = {"authorization": self._signer.authorization(identity), "content-type": wire.OCTETS}
        return headers | {wire.REQUEST_ID: request_id} if request_id else headers

    def _fault(self, why: str) -> None:
        self._faults += 1
        if self._faults >= REST_AFTER_FAULTS:
            if self._clock() >= self._rests_until:
                logger.warning("cache_unavailable", extra={"reason": why, "rest_s": REST_S})
            self._rests_until = self._clock() + REST_S
            self._faults = REST_AFTER_FAULTS - 1  # one more fault after the rest, and it rests again


@contextlib.asynccontextmanager
async def _budget(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but what makes it expire is the cache being late, not this process being busy.

    uvloop runs timers before it reads sockets, so in a busy loop an answer that came in time loses to its timeout.
    Measured with 64 callers: "late" answers put the cache at rest, so hits became misses, at a third of the throughput.
    Hence the loop gets some more turns to hand over what has arrived: microseconds when it is idle.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle
    async with asyncio.timeout(None) as limit:

        def expire(turns: int) -> None:
            nonlocal timer
            if turns:
                timer = loop.call_soon(expire, turns - 1)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_later(seconds, expire, GRACE_TURNS)
        try:
            yield
        finally:
            timer.cancel()
