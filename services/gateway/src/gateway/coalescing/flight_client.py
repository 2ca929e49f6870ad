"""The flights at the cache service, as a leader or a follower on this replica sees them.

Waiting has a client and a pool of its own, so that a thousand who wait take no connection from those who look up. These
calls open no spans: there may be fifty a second of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import orjson
from opentelemetry import trace

from common import framing
from common.identity import HopIdentity
from gateway.coalescing.flight import FlightLostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.caching.cache_client import CacheClient, Follow

SILENCE_S = 0.6
"""A follower's connection shows a sign of life four times a second; without any the flight is looked up again."""
ATTENDANCE_TIMEOUT_S = 3.0
PRESENCE_TIMEOUT_S = 5.0
"""The cache answers after four."""
APPEND_TIMEOUT_S = 1.0
RELEASE_TIMEOUT_S = 0.3
MAX_REST_BYTES = 16 * 1024 * 1024
"""No frame of ours is as long."""
_PLATFORM = HopIdentity("platform", "presence")
_OK = 200
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class Attendance:
    is_held: bool
    followers: int


class FlightClient:
    def __init__(self, waits: httpx2.AsyncClient, cache: CacheClient) -> None:
        self._waits = waits
        self._cache = cache

    async def be_present(self) -> None:
        """Show that this process lives, for four seconds; when it does not, the cache gives its flights up."""
        url = f"{self._cache.base_url}gateways/{self._cache.gateway_id}/presence"
        with contextlib.suppress(httpx2.HTTPError, TimeoutError):
            async with asyncio.timeout(PRESENCE_TIMEOUT_S):
                await self._waits.post(url, headers=self._headers(_PLATFORM), timeout=None)

    async def attend(self, name: str, flight: str, identity: HopIdentity, *, is_followed: bool) -> Attendance | None:
        """Renew the lease and wait up to a second for followers to come or go. None: the cache did not say."""
        try:
            async with asyncio.timeout(ATTENDANCE_TIMEOUT_S):
                response = await self._waits.post(
                    self._url(name, flight, f"attendance?followed={str(is_followed).lower()}"),
                    headers=self._headers(identity),
                )
            if response.status_code != _OK:
                return None
            told = orjson.loads(response.content)
            return Attendance(bool(told["held"]), int(told["followers"]))
        except (httpx2.HTTPError, TimeoutError, ValueError, KeyError, TypeError):
            return None

    async def append(  # noqa: PLR0913  # a flight is named by three
        self, name: str, flight: str, identity: HopIdentity, frames: Sequence[bytes], *, first: int, ending: str = ""
    ) -> bool | None:
        """Whether the flight goes on. None: unknown; the same may be sent again, its number keeps it single."""
        url = self._url(name, flight, f"frames?first={first}&ending={ending}")
        try:
            async with asyncio.timeout(APPEND_TIMEOUT_S):
                response = await self._waits.post(url, content=framing.pack(frames), headers=self._headers(identity))
        except (httpx2.HTTPError, TimeoutError):
            return None
        return response.status_code == _NO_CONTENT

    async def release(self, name: str, flight: str, identity: HopIdentity, *, unless_followed: bool) -> bool:
        """False: somebody follows, so that the work has to go on."""
        response = await self._cache.tell(
            "DELETE",
            f"flights/{name}/{flight}?unless_followed={str(unless_followed).lower()}",
            identity=identity,
            timeout_s=RELEASE_TIMEOUT_S,
        )
        try:
            return response is None or orjson.loads(response.content)["released"] is not False
        except (ValueError, KeyError, TypeError):
            return True

    async def frames(self, name: str, found: Follow, identity: HopIdentity, *, first: int) -> AsyncGenerator[bytes]:
        """The sealed frames from that number on, as they come, until the flight ended or is lost.

        Raises `FlightLostError` when the cache breaks off or is silent.
        """
        url = self._url(name, found.flight, f"frames?follower={found.follower}&first={first}")
        timeout = httpx2.Timeout(SILENCE_S)
        rest = b""
        try:
            async with self._waits.stream("GET", url, headers=self._headers(identity), timeout=timeout) as response:
                if response.status_code != _OK:
                    raise FlightLostError
                async for chunk in response.aiter_raw():
                    whole, rest = framing.take(rest + chunk)
                    if len(rest) > MAX_REST_BYTES:
                        raise FlightLostError
                    for frame in whole:
                        if frame:
                            yield frame
        except (httpx2.HTTPError, TimeoutError) as error:
            raise FlightLostError from error

    def _url(self, name: str, flight: str, rest: str) -> str:
        return f"{self._cache.base_url}flights/{name}/{flight}/{rest}"

    def _headers(self, identity: HopIdentity) -> dict[str, str]:
        context = trace.get_current_span().get_span_context()
        trace_id = context.trace_id or secrets.randbits(127) + 1
        span_id = context.span_id or secrets.randbits(63) + 1
        # Not sampled, whatever the request's trace is: see above.
        traceparent = f"00-{trace_id:032x}-{span_id:016x}-00"
        return self._cache.headers(identity, "") | {"traceparent": traceparent}
