"""Key records in the *state* store: `v1:key:{kid}` holds one record as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.errors import StoreUnavailableError
from gateway.keys import KeyRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis


def _name(kid: str) -> str:
    return f"v1:key:{{{kid}}}"


async def put_key(store: Redis, record: KeyRecord) -> None:
    """Write a record; returns once the store has it on disk (it runs with `appendfsync always`)."""
    await store.set(_name(record.kid), record.to_json())


async def fetch_key(store: Redis, kid: str) -> KeyRecord | None:
    """Read a record, None when there is none. Raises `StoreUnavailableError` when the store does not answer or lies."""
    try:
        data = await store.get(_name(kid))
        return None if data is None else KeyRecord.from_json(data)  # type: ignore[arg-type]  # bytes: nothing is decoded
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise StoreUnavailableError(type(error).__name__) from error
