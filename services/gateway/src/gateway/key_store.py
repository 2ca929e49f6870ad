"""Key records in the *state* store: `v1:key:{kid}` holds one record as JSON, the set `v1:keys` names them all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from gateway.errors import StoreUnavailableError
from gateway.keys import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis


def _name(kid: str) -> str:
    return f"v1:key:{{{kid}}}"


_ALL = "v1:keys"


async def put_key(store: Redis, record: KeyRecord) -> None:
    """Write a record; returns once the store has it on disk (it runs with `appendfsync always`).

    Named first, then written: a crash between the two leaves a name without a record, which lists as nothing.
    Raises `StoreUnavailableError`.
    """
    with _store_errors():
        await store.sadd(_ALL, record.kid)
        await store.set(_name(record.kid), record.to_json())


async def delete_key(store: Redis, kid: str) -> None:
    """Raises `StoreUnavailableError`."""
    with _store_errors():
        await store.delete(_name(kid))
        await store.srem(_ALL, kid)


async def list_keys(store: Redis) -> list[KeyRecord]:
    """Every record, by tenant and name. Raises `StoreUnavailableError`."""
    with _store_errors():
        kids = sorted(kid.decode() for kid in await store.smembers(_ALL))  # type: ignore[union-attr]  # bytes: nothing is decoded
    records = [record for kid in kids if (record := await fetch_key(store, kid)) is not None]
    return sorted(records, key=lambda record: (record.tenant, record.name))


async def fetch_key(store: Redis, kid: str) -> KeyRecord | None:
    """Read a record, None when there is none. Raises `StoreUnavailableError` when the store does not answer or lies."""
    with _store_errors():
        data = await store.get(_name(kid))
        return None if data is None else KeyRecord.from_json(data)  # type: ignore[arg-type]  # bytes: nothing is decoded


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise StoreUnavailableError(type(error).__name__) from error
