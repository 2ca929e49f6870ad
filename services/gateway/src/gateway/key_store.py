"""Key records in the *state* store: `v1:key:{kid}` holds one record as JSON, the set `v1:keys` names them all."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError, WatchError

from gateway.errors import StoreUnavailableError
from gateway.keys import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.asyncio import Redis


logger = logging.getLogger(__name__)


def _name(kid: str) -> str:
    return f"v1:key:{{{kid}}}"


_ALL = "v1:keys"
_CHANGE_TRIES = 5


async def put_key(store: Redis, record: KeyRecord) -> None:
    """Write a record; returns once the store has it on disk (it runs with `appendfsync always`).

    Named first, then written: a crash between the two leaves a name without a record, which lists as nothing.
    Raises `StoreUnavailableError`.
    """
    with _store_errors():
        await store.sadd(_ALL, record.kid)
        await store.set(_name(record.kid), record.to_json())


async def change_key(store: Redis, kid: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord | None:
    """Apply `change` to a record that nobody else changes or deletes meanwhile; None when there is none.

    Raises `StoreUnavailableError`, also when others change the same record again and again.
    """
    with _store_errors():
        for _ in range(_CHANGE_TRIES):
            async with store.pipeline() as pipe:
                await pipe.watch(_name(kid))
                record = _read(kid, await pipe.get(_name(kid)))
                if record is None:
                    return None
                changed = change(record)
                pipe.multi()  # type: ignore[no-untyped-call]  # redis leaves it untyped
                pipe.set(_name(kid), changed.to_json())
                with contextlib.suppress(WatchError):
                    await pipe.execute()
                    return changed
    raise StoreUnavailableError("changed by others at the same time")


async def delete_key(store: Redis, kid: str) -> bool:
    """Whether there was one. Raises `StoreUnavailableError`."""
    with _store_errors():
        deleted = await store.delete(_name(kid))
        await store.srem(_ALL, kid)
        return bool(deleted)


async def list_keys(store: Redis) -> list[KeyRecord]:
    """Every record, by tenant and name. Raises `StoreUnavailableError`."""
    with _store_errors():
        kids = sorted(kid.decode() for kid in await store.smembers(_ALL))  # type: ignore[union-attr]  # bytes: nothing is decoded
    records = [record for kid in kids if (record := await fetch_key(store, kid)) is not None]
    return sorted(records, key=lambda record: (record.tenant, record.name))


async def fetch_key(store: Redis, kid: str) -> KeyRecord | None:
    """Read a record, None when there is none. Raises `StoreUnavailableError` when the store does not answer."""
    with _store_errors():
        return _read(kid, await store.get(_name(kid)))


def _read(kid: str, data: bytes | str | None) -> KeyRecord | None:
    try:
        return None if data is None else KeyRecord.from_json(data)  # type: ignore[arg-type]  # bytes: nothing is decoded
    except ValueError:  # one damaged record is no key; the others are none the worse
        logger.warning("key_record_damaged", extra={"key_id": kid})
        return None


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailableError(type(error).__name__) from error
