"""Connections to Valkey or Redis that fail fast: the client's defaults block a call 58 s on a frozen server."""

from __future__ import annotations

import contextlib

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError  # noqa: A004  # redis's own, meant

CALL_TIMEOUT_S = 0.2
POOL_WAIT_S = 0.1
CONNECTIONS = 32


def connect(url: str, *, connections: int = CONNECTIONS, call_timeout_s: float = CALL_TIMEOUT_S) -> Redis:
    """A client whose calls end within `call_timeout_s` and 100 ms, whatever the server does. Connects on first use."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=call_timeout_s,
        socket_connect_timeout=call_timeout_s,
        # Once, and only for a broken connection: hides the server's restart. A timeout is never tried again.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        health_check_interval=15,
    )
    return Redis.from_pool(pool)


async def is_reachable(store: Redis) -> bool:
    try:
        return bool(await store.ping())
    except (RedisError, OSError, TimeoutError):
        return False


async def close(store: Redis) -> None:
    """Let go of its connections. A store that does not even take a goodbye (frozen, gone) is no reason to fail."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await store.aclose()
