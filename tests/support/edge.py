"""Clients behind an edge: live streams, plain requests and jobs, open loop, over connections that are kept."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2

from common.http_client import create_client
from support.platform import chat

if TYPE_CHECKING:
    from support.cluster_service import ClusterService

FINAL = ("succeeded", "failed", "cancelled", "expired")
_BOUND_S = 60


@dataclass
class Tally:
    """What became of the requests that began while a tier was restarted."""

    tier: str
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    streams: int = 0
    cut: list[str] = field(default_factory=list)
    """Streams that ended early, or with an error."""
    jobs: int = 0
    lost: list[str] = field(default_factory=list)
    """Jobs that were accepted and did not succeed."""
    under_way: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.failures or self.cut or self.lost)


class Edge:
    """Sends each request to a ready gateway, as a reverse proxy that retries nothing."""

    def __init__(self, gateways: ClusterService, key: str, *, rate: float, stream_s: float) -> None:
        self._gateways = gateways
        self._headers = {"authorization": f"Bearer {key}"}
        self._rate = rate
        self._stream_s = stream_s
        self.tally = Tally("start")
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._client = create_client(timeout=httpx2.Timeout(_BOUND_S))
        self._client.headers.update(self._headers)
        self._sending = asyncio.create_task(self._send_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """All that was begun is over."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await asyncio.gather(*self._calls)
        await self._client.aclose()

    async def _send_forever(self) -> None:
        begun = time.monotonic()
        for number in itertools.count(1):
            call = asyncio.create_task(self._one(number, self.tally))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.sleep(max(0.0, begun + number / self._rate - time.monotonic()))

    async def _one(self, number: int, tally: Tally) -> None:
        tally.under_way += 1
        try:
            await self._by_kind(number, tally)
        finally:
            tally.under_way -= 1

    async def _by_kind(self, number: int, tally: Tally) -> None:
        match number % 10:
            case 0 | 5:
                await self._stream(number, tally)
            case 3:
                await self._job(number, tally)
            case 7:  # mostly from the cache
                await self._ask("POST", "/generate", tally, {"prompt": f"What was asked before? {number // 40}"})
            case _:
                await self._ask("POST", "/v1/chat/completions", tally, chat(f"{number} [[sim ttft_ms=20 tokens=8]]"))

    async def _ask(
        self, method: str, path: str, tally: Tally, body: dict[str, Any] | None = None
    ) -> httpx2.Response | None:
        tally.requests += 1
        began = time.monotonic()
        try:
            answer = await self._client.request(method, self._gateways.pick() + path, json=body)
        except httpx2.HTTPError as error:
            tally.failures.append(f"{method} {path}: {type(error).__name__} {error}")
            return None
        if not answer.is_success:
            took_s = time.monotonic() - began
            tally.failures.append(f"{method} {path}: {answer.status_code} after {took_s:.2f} s: {answer.text}")
            return None
        return answer

    async def _stream(self, number: int, tally: Tally) -> None:
        tally.streams += 1
        asked = chat(f"{number} [[sim tokens=20 itl_ms={round(self._stream_s * 50)}]]", stream=True)
        received = b""
        try:
            url = f"{self._gateways.pick()}/v1/chat/completions"
            async with self._client.stream("POST", url, json=asked) as answer:
                async for chunk in answer.aiter_raw():
                    received += chunk
        except httpx2.HTTPError as error:
            tally.cut.append(f"{type(error).__name__} after {len(received)} bytes: {received[-300:]!r}")
            return
        if not received.endswith(b"data: [DONE]\n\n") or b'"error"' in received:
            tally.cut.append(f"{answer.status_code}: {received[-300:]!r}")

    async def _job(self, number: int, tally: Tally) -> None:
        tally.jobs += 1
        asked = {"endpoint": "/v1/chat/completions", "body": chat(f"job {number} [[sim ttft_ms=300]]")}
        accepted = await self._ask("POST", "/v1/jobs", tally, asked)
        if accepted is None:
            return  # a failure already
        job = accepted.json()
        give_up_at = time.monotonic() + _BOUND_S
        while job["state"] not in FINAL and time.monotonic() < give_up_at:
            shown = await self._ask("GET", f"/v1/jobs/{job['id']}?wait=1", tally)
            if shown is not None:
                job = shown.json()
        if job["state"] != "succeeded":
            tally.lost.append(str(job))
