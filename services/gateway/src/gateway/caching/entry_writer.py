"""Stores answers in the background: a queue that is bounded in number and bytes, and drops what is too much."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context

from common import framing, wire
from common.background import end
from gateway.caching.cache_client import MOST_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from opentelemetry.context import Context

    from common.identity import HopIdentity
    from gateway.caching.cache_client import CacheClient
    from gateway.caching.sealing import Sealer

logger = logging.getLogger(__name__)

MOST_SHRINKING = 8
"""2 MiB of events, some seven thousand chunks: 5 ms to deflate."""
WRITERS = 4


@dataclass(frozen=True, slots=True)
class _Order:
    """One call to make."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    identity: HopIdentity
    context: Context
    """The trace of the request whose answer this is: its store joins it, sampled or not."""


class EntryWriter:
    """`put` and its siblings return at once; False: dropped and counted."""

    def __init__(  # noqa: PLR0913  # two parts and four bounds, all named
        self,
        cache: CacheClient,
        sealer: Sealer,
        *,
        ttl_s: int,
        max_entry_bytes: int,
        most_orders: int,
        most_bytes: int,
    ) -> None:
        self._cache = cache
        self._sealer = sealer
        self._base_ttl_s = ttl_s
        self._max_entry_bytes = max_entry_bytes
        self._orders: asyncio.Queue[_Order] = asyncio.Queue(most_orders)
        self._most_bytes = most_bytes
        self._bytes = 0
        self.dropped = 0
        self.puts: Counter[tuple[str]] = Counter()
        """`stored`, `failed`, or `dropped` for want of room or of a cache."""
        cache.forget_flight = self.release

    def put(self, name: str, value: bytes, *, identity: HopIdentity, flight: str = "") -> bool:
        """Store an entry; `flight` is the one that its writer led: its lease ends with it."""
        sealed = self._sealed(name, value, identity)
        if sealed is None:
            return False
        headers = {wire.ENTRY_TTL_S: self._ttl_s()} | ({wire.FLIGHT: flight} if flight else {})
        return self._take("PUT", f"entries/{name}", sealed, headers, identity)

    def put_many(self, values: Sequence[tuple[str, bytes]], *, identity: HopIdentity) -> bool:
        frames: list[bytes] = []
        for name, value in values[:MOST_AT_ONCE]:
            if (sealed := self._sealed(name, value, identity)) is not None:
                frames += (name.encode(), sealed)
        if not frames:
            return False
        return self._take("PUT", "entries", framing.pack(frames), {wire.ENTRY_TTL_S: self._ttl_s()}, identity)

    def release(self, name: str, flight: str, identity: HopIdentity) -> bool:
        """Let go of a lease, so that nobody waits for a flight that will not come."""
        return self._take("DELETE", f"flights/{name}/{flight}", b"", {}, identity)

    @contextlib.asynccontextmanager
    async def writing(self, timeout_s: float) -> AsyncIterator[None]:
        """Run the writers within the body; what waits at the end gets `timeout_s` to leave."""
        writers = [asyncio.create_task(self._write(timeout_s)) for _ in range(WRITERS)]
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._orders.join()
            await end(*writers)

    def _sealed(self, name: str, value: bytes, identity: HopIdentity) -> bytes | None:
        """None for one that is too large, which is tried only if it may yet shrink: a seal holds up the event loop."""
        if len(value) > MOST_SHRINKING * self._max_entry_bytes:
            return None
        sealed = self._sealer.seal(value, tenant=identity.tenant, place=name)
        return sealed if len(sealed) <= self._max_entry_bytes else None

    def _take(self, method: str, path: str, body: bytes, headers: dict[str, str], identity: HopIdentity) -> bool:
        if self._cache.breaker.is_open or self._bytes + len(body) > self._most_bytes or self._orders.full():
            self._drop(method)
            return False
        self._bytes += len(body)
        self._orders.put_nowait(_Order(method, path, body, headers, identity, otel_context.get_current()))
        return True

    async def _write(self, timeout_s: float) -> None:
        while True:
            order = await self._orders.get()
            token = otel_context.attach(order.context)
            try:
                if self._cache.breaker.is_open:  # since it was taken
                    self._drop(order.method)
                    continue
                response = await self._cache.tell(
                    order.method, order.path, identity=order.identity, timeout_s=timeout_s,
                    content=order.body or None, headers=order.headers,
                )  # fmt: skip
                is_stored = response is not None and response.is_success
                self._count(order.method, "stored" if is_stored else "failed")
                if response is not None and response.is_error:  # this entry's fault, not the cache's
                    logger.warning("cache_put_refused", extra={"status": response.status_code})
            except Exception as error:  # a background loop has to outlive whatever one entry does to it
                self._count(order.method, "failed")
                logger.exception("cache_put_failed", extra={"error_type": type(error).__name__})
            finally:
                otel_context.detach(token)
                self._bytes -= len(order.body)
                self._orders.task_done()

    def _drop(self, method: str) -> None:
        self.dropped += 1
        self._count(method, "dropped")

    def _count(self, method: str, outcome: str) -> None:
        if method == "PUT":  # the others let go of leases
            self.puts[outcome,] += 1

    def _ttl_s(self) -> str:
        # ± 10 %, so that entries of one burst do not all end in one moment
        return str(max(1, round(self._base_ttl_s * random.uniform(0.9, 1.1))))  # noqa: S311  # spread, not secrecy
