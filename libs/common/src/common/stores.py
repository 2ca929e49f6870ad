"""Connections to Valkey or Redis that fail fast: the client's defaults block a call 58 s on a frozen server.

What is measured is a whole *operation*, such as admitting a call, and not each command: see `operation`.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError  # noqa: A004  # redis's own, meant

from common import metrics

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.metrics import Histogram, Meter

CALL_TIMEOUT_S = 0.2
POOL_WAIT_S = 0.1
CONNECTIONS = 32


_UNMEASURED: AbstractContextManager[None] = contextlib.nullcontext()


class MeasuredRedis(Redis):
    """A client whose operations are recorded."""

    durations: Histogram

    def record(self, operation: str, seconds: float, error: BaseException | None = None) -> None:
        """`operation` is one of our own words. A caller who left says nothing of the store."""
        attributes = {"db.system.name": "redis", "db.operation.name": operation}
        if isinstance(error, Exception):
            attributes["error.type"] = type(error).__name__
        if error is None or isinstance(error, Exception):
            self.durations.record(seconds, attributes)


def operation(store: Redis, name: str) -> AbstractContextManager[None]:
    """Around one logical operation, whatever its number of commands; free when nobody takes metrics."""
    return _Operation(store, name) if isinstance(store, MeasuredRedis) else _UNMEASURED


class _Operation:
    __slots__ = ("_began", "_name", "_store")

    def __init__(self, store: MeasuredRedis, name: str) -> None:
        self._store = store
        self._name = name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._store.record(self._name, time.perf_counter() - self._began, error)


def connect(url: str, *, connections: int = CONNECTIONS, meter: Meter | None = None) -> Redis:
    """A client whose calls end within 300 ms, whatever the server does. Connects on first use."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=CALL_TIMEOUT_S,
        socket_connect_timeout=CALL_TIMEOUT_S,
        # Once, and only for a broken connection: hides the server's restart. A timeout is never tried again.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        health_check_interval=15,
    )
    if meter is None or metrics.is_off(meter):
        return Redis.from_pool(pool)
    client: MeasuredRedis = MeasuredRedis.from_pool(pool)  # type: ignore[assignment]  # redis types it as its own class
    client.durations = meter.create_histogram(
        "db.client.operation.duration", "s", "Of an operation of a store, such as admitting a call: all its commands."
    )
    return client


async def is_reachable(store: Redis) -> bool:
    try:
        return bool(await store.ping())
    except (RedisError, OSError, TimeoutError):
        return False


async def close(store: Redis) -> None:
    """Let go of its connections. A store that does not even take a goodbye (frozen, gone) is no reason to fail."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await store.aclose()
