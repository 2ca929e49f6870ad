"""Connections to Valkey or Redis that fail fast: the client's defaults block a call 58 s on a frozen server."""

from __future__ import annotations

import builtins
import contextlib
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004  # redis's own, meant

from common.lateness import answered_within

CALL_TIMEOUT_S = 0.2
POOL_WAIT_S = 0.1
CONNECTIONS = 32
SMALL_WRITE_BYTES = 16 * 1024
"""What the socket's buffers take of a frozen server without a wait."""


def connect(url: str, *, connections: int = CONNECTIONS, call_timeout_s: float = CALL_TIMEOUT_S) -> Redis:
    """A client whose calls end within `call_timeout_s` and 100 ms, whatever the server does. Connects on first use."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=None,  # bounded by what follows
        socket_connect_timeout=call_timeout_s,
        # Once, and only for a broken connection: hides the server's restart. A timeout is never tried again.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        health_check_interval=15,
    )
    pool.connection_class = type(
        "PatientConnection", (_Patient, pool.connection_class), {"call_timeout_s": call_timeout_s}
    )
    return Redis.from_pool(pool)


class _Patient(Connection):
    """Bounds writing and reading by `call_timeout_s` of the store's time, not of this process's own.

    The client's own blames the store for a busy event loop (see `answered_within`) and makes a task of each write.
    """

    call_timeout_s: float

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # redis's
        if not self.is_connected:
            await self.connect_check_health(check_health=False)  # bounded by itself
        if sum(map(len, command)) < SMALL_WRITE_BYTES:
            return await super().send_packed_command(command, check_health)
        try:
            async with answered_within(self.call_timeout_s):
                await super().send_packed_command(command, check_health)
        except builtins.TimeoutError:
            raise TimeoutError from None

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("timeout") is not None:  # a subscriber's, who waits for what others may say
            return await super().read_response(*args, **kwargs)
        try:
            async with answered_within(self.call_timeout_s):
                return await super().read_response(*args, **kwargs)
        except builtins.TimeoutError:
            raise TimeoutError from None


async def is_reachable(store: Redis) -> bool:
    try:
        return bool(await store.ping())
    except (RedisError, OSError, TimeoutError):
        return False


async def close(store: Redis) -> None:
    """Let go of its connections. A store that does not even take a goodbye (frozen, gone) is no reason to fail."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await store.aclose()
