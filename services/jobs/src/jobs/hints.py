"""What wakes idle workers: a blocking pop on a list of hints. One may get lost or come too often; the record decides.

A client of its own, because a blocking call outlasts the 200 ms that every other call gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from common.stores import CALL_TIMEOUT_S, close
from jobs.errors import StoreUnavailable
from jobs.transitions import PREFIX

if TYPE_CHECKING:
    from typing import Self

BLOCK_S = 1.0
"""A lost hint costs an idle worker no more than this."""


class Hints:
    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        self._redis: Any = Redis.from_url(
            url,
            socket_timeout=BLOCK_S + 1,
            socket_connect_timeout=CALL_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._name = f"{prefix}:wake"

    async def wait(self) -> None:
        """Return when there may be something to claim, or after a second. Raises `StoreUnavailable`."""
        try:
            await self._redis.blpop([self._name], timeout=BLOCK_S)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(type(error).__name__) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self._redis)
