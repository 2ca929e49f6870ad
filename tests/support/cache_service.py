"""The cache service as a transport, for code of the gateway that is tested without sockets: entries and leases."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import httpx2

from common import framing
from common.identity import HopIdentity, HopSigner
from gateway.answers.completions import Completions
from gateway.caching.cache_breaker import CacheBreaker
from gateway.caching.cache_client import CacheClient
from gateway.caching.entry_writer import EntryWriter
from gateway.caching.hot_entries import HotEntries
from gateway.caching.sealing import Sealer
from gateway.coalescing.flight_client import FlightClient
from gateway.coalescing.flights import Flights
from gateway.inference_client import InferenceClient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gateway.admission.turnstile import Turnstile

    Handler = Callable[[httpx2.Request], Coroutine[None, None, httpx2.Response]]

BOUND_S = 5
ALICE = HopIdentity("alice", "key1")
SEALER = Sealer("a-secret-of-the-gateway")
SIGNER = HopSigner("a-hop-secret-of-the-tests-0123456789abcdef", "both")


class CacheService:
    """Hits, leads and takes entries; `answer` may be replaced by a fault."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.entries: dict[str, tuple[bytes, int]] = {}
        """By fingerprint: sealed bytes and their life in seconds."""
        self.answer: Handler = self.well

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return await self.answer(request)

    async def well(self, request: httpx2.Request) -> httpx2.Response:
        parts = request.url.path.split("/")[2:]
        match request.method, *parts:
            case "POST", "lookups":
                return self._look_up(json.loads(request.content))
            case "POST", "lookups", "batch":
                wanted = json.loads(request.content)["fingerprints"]
                found = [self.entries.get(name) for name in wanted]
                return httpx2.Response(200, content=framing.pack(bytes(4) + one[0] if one else b"" for one in found))
            case "PUT", "entries", name:
                self.entries[name] = (request.content, int(request.headers["x-entry-ttl-s"]))
            case "PUT", "entries":
                frames = framing.unpack(request.content)
                for fingerprint, value in zip(frames[::2], frames[1::2], strict=True):
                    self.entries[fingerprint.decode()] = (value, int(request.headers["x-entry-ttl-s"]))
            case "POST", "flights", *_, "attendance":
                await asyncio.Event().wait()
            case "DELETE", "flights", *_:
                return httpx2.Response(200, json={"released": True})
        return httpx2.Response(204)

    def _look_up(self, asked: dict[str, str | None]) -> httpx2.Response:
        entry = self.entries.get(str(asked["fingerprint"]))
        if entry is not None:
            return httpx2.Response(200, content=entry[0], headers={"x-lookup": "hit", "age": "7"})
        if asked.get("own_id"):
            return httpx2.Response(200, headers={"x-lookup": "lead", "x-flight": str(asked["own_id"])})
        return httpx2.Response(200, headers={"x-lookup": "none"})

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self), base_url="http://cache")

    def cache(self, breaker: CacheBreaker | None = None, *, timeout_s: float = BOUND_S) -> CacheClient:
        return CacheClient(self.client(), SIGNER, SEALER, breaker or CacheBreaker(), timeout_s=timeout_s)


def writer_of(cache: CacheClient, **bounds: int) -> EntryWriter:
    return EntryWriter(
        cache,
        SEALER,
        ttl_s=bounds.get("ttl_s", 1_000),
        max_entry_bytes=bounds.get("max_entry_bytes", 1024),
        most_orders=bounds.get("most_orders", 8),
        most_bytes=bounds.get("most_bytes", 2**20),
    )


def completions_over(
    service: CacheService,
    inference: Handler,
    *,
    hot_life_s: float = 0,
    turnstile: Turnstile | None = None,
    **bounds: int,
) -> tuple[Completions, EntryWriter]:
    """The gateway's part between a call and inference, over these two transports."""
    cache = service.cache()
    writer = writer_of(cache, **bounds)
    hot = HotEntries(life_s=hot_life_s, max_bytes=2**20)
    completions = Completions(
        cache,
        InferenceClient(
            httpx2.AsyncClient(transport=httpx2.MockTransport(inference), base_url="http://inference"),
            SIGNER,
            turnstile,
        ),
        Flights(cache, FlightClient(service.client(), cache), SEALER, hot),
        writer,
        hot,
        fingerprint_key=SEALER.fingerprint_key,
    )
    return completions, writer
