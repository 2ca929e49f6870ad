"""Asks the cache service for sealed answers. Every fault of it is a miss, within its budget."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import orjson

from common import framing, wire
from common.errors import InvalidRequest
from common.lateness import answered_within
from gateway.caching.hot_entries import Hit
from gateway.caching.sealing import SealBrokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from common.identity import HopIdentity, HopSigner
    from gateway.caching.cache_breaker import CacheBreaker
    from gateway.caching.sealing import Sealer

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 256
"""Entries of one batch; the cache service takes no more."""
_OK = 200
_NOBODY = "0" * 64
_AGE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Lead:
    """Nobody has it: fetch it, others wait for you."""

    flight: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody fetches it: wait for it, as `follower`."""

    flight: str
    follower: str


Found = Hit | Lead | Follow | None
"""None: the cache cannot help; whoever asked is on its own."""


class CacheClient:
    """The cache service as the gateway sees it: every question is answered within `timeout_s`, or by None.

    `forget_flight` is told of a lease that may have been granted by an answer that came too late to be used.
    """

    def __init__(  # four parts and a bound, all named
        self,
        client: httpx2.AsyncClient,
        signer: HopSigner,
        sealer: Sealer,
        breaker: CacheBreaker,
        *,
        timeout_s: float,
    ) -> None:
        self._client = client
        # Absolute: to join a relative one costs httpx2 two more parses, 30 us.
        self.base_url = str(client.build_request("GET", "/v1/").url)
        self._lookup_url = client.build_request("POST", "/v1/lookups").url
        self._batch_url = client.build_request("POST", "/v1/lookups/batch").url
        self._signer = signer
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._probe: asyncio.Task[None] | None = None
        self.gateway_id = secrets.token_hex(8)
        """This process's, with which the ids of its flights begin: by it the cache knows whose they are."""
        self.breaker = breaker
        self.broken_seals = 0
        """An alarm: something else than what was sealed for this tenant and request came back."""
        self.forget_flight: Callable[[str, str, HopIdentity], object] = lambda *_: None

    async def look_up(  # noqa: PLR0913  # all by keyword
        self,
        name: str,
        *,
        identity: HopIdentity,
        request_id: str,
        joins: bool = True,
        leads: bool = True,
        failed_id: str = "",
        max_age_s: float | None = None,
    ) -> Found:
        """A hit, a lead or a follow; only a hit or None if the caller does not join; no lead without `leads`."""
        if self._rests(identity):
            return None
        own_id = self.gateway_id + secrets.token_hex(8) if joins else ""
        asked: dict[str, Any] = {"fingerprint": name, "own_id": own_id or None, "failed_id": failed_id or None}
        if max_age_s is not None:
            asked["max_age_s"] = max_age_s
        if not leads:
            asked["leads"] = False
        try:
            async with answered_within(self._timeout_s):
                response = await self._client.post(
                    self._lookup_url, content=orjson.dumps(asked), headers=self.headers(identity, request_id)
                )
            found = self._read(response, name, own_id, identity)
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            self.breaker.fault(type(error).__name__)
        except SealBrokenError:
            self._alarm(request_id)
        except asyncio.CancelledError:
            if own_id:
                self.forget_flight(name, own_id, identity)
            raise
        else:
            self.breaker.success()
            return found
        if own_id:
            self.forget_flight(name, own_id, identity)
        return None

    async def get_many(
        self, names: Sequence[str], *, identity: HopIdentity, request_id: str, max_age_s: float | None = None
    ) -> list[Hit | None]:
        """Those of up to 256 entries that are there; the others are None, all of them when the cache is away."""
        nothing: list[Hit | None] = [None] * len(names)
        if self._rests(identity):
            return nothing
        try:
            async with answered_within(self._timeout_s):
                response = await self._client.post(
                    self._batch_url,
                    content=orjson.dumps({"fingerprints": names, "max_age_s": max_age_s}),
                    headers=self.headers(identity, request_id),
                )
            opened = self._read_many(response, names, identity)
        except (httpx2.HTTPError, TimeoutError, ValueError, InvalidRequest) as error:
            self.breaker.fault(type(error).__name__)
            return nothing
        except SealBrokenError:
            self._alarm(request_id)
            return nothing
        self.breaker.success()
        return opened

    async def tell(  # noqa: PLR0913  # all but the first two by keyword
        self,
        method: str,
        path: str,
        *,
        identity: HopIdentity,
        timeout_s: float,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response | None:
        """Do something else there, not on a caller's time; None: it did not work, and the breaker knows."""
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.request(
                    method, self.base_url + path, content=content,
                    headers=self.headers(identity, "") | dict(headers or {}), timeout=timeout_s,
                )  # fmt: skip
        except (httpx2.HTTPError, TimeoutError) as error:
            self.breaker.fault(type(error).__name__)
            return None
        if response.is_server_error:
            self.breaker.fault(f"status {response.status_code}")
            return None
        return response

    def headers(self, identity: HopIdentity, request_id: str) -> dict[str, str]:
        headers = {"authorization": self._signer.authorization(identity)}
        if request_id:
            headers[wire.REQUEST_ID] = request_id
        return headers

    def _read(self, response: httpx2.Response, name: str, own_id: str, identity: HopIdentity) -> Found:
        """Raises `ValueError` for what no cache service says, and `SealBrokenError`."""
        if response.status_code != _OK:
            raise ValueError(f"status {response.status_code}")
        match response.headers.get(wire.LOOKUP):
            case "hit":
                value = self._sealer.open(response.content, tenant=identity.tenant, place=name)
                return Hit(value, max(int(response.headers.get("age", "0")), 0))
            case "lead" if own_id and response.headers.get(wire.FLIGHT) == own_id:
                return Lead(own_id)
            case "follow" if own_id:
                return Follow(response.headers[wire.FLIGHT], own_id)
            case "none":
                return None
        raise ValueError("unknown answer")

    def _read_many(self, response: httpx2.Response, names: Sequence[str], identity: HopIdentity) -> list[Hit | None]:
        """Raises as above, and `InvalidRequest` for frames that are cut."""
        if response.status_code != _OK:
            raise ValueError(f"status {response.status_code}")
        frames = zip(framing.unpack(response.content), names, strict=True)
        return [self._opened(frame, name, identity) if frame else None for frame, name in frames]

    def _opened(self, frame: bytes, name: str, identity: HopIdentity) -> Hit:
        value = self._sealer.open(frame[_AGE_BYTES:], tenant=identity.tenant, place=name)
        return Hit(value, int.from_bytes(frame[:_AGE_BYTES], "big"))

    def _alarm(self, request_id: str) -> None:
        self.broken_seals += 1
        self.breaker.fault("seal")
        logger.warning("cache_entry_did_not_open", extra={"request_id": request_id})

    def _rests(self, identity: HopIdentity) -> bool:
        if not self.breaker.is_open:
            return False
        if self.breaker.wants_probe():
            self._probe = asyncio.create_task(self._ask_again(identity))
        return True

    async def _ask_again(self, identity: HopIdentity) -> None:
        """Look for what nobody stores; no caller waits for the answer."""
        try:
            async with answered_within(self._timeout_s):
                response = await self._client.post(
                    self._lookup_url, content=orjson.dumps({"fingerprint": _NOBODY}), headers=self.headers(identity, "")
                )
        except (httpx2.HTTPError, TimeoutError):
            return
        if response.status_code == _OK and response.headers.get(wire.LOOKUP) == "none":
            self.breaker.success()
