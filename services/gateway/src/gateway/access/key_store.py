"""Records of keys and tenants in the *state* store. Whoever changes one says who it is: see `gateway.access.audit`.

Every function raises `StoreUnavailableError` when the store does not answer in its time.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import WatchError

from gateway.access import audit, key_names
from gateway.access.records import KeyRecord, TenantRecord
from gateway.errors import AlreadyDeclared, StoreUnavailableError, TenantHasKeys
from gateway.store_errors import store_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

    from gateway.access.audit import Actor

logger = logging.getLogger(__name__)

_CHANGE_TRIES = 5
_READ_AT_ONCE = 500
_NOTED_AT_ONCE = 2_000
"""A call to the store has 200 ms."""
USED_KEPT = 100_000
"""Keys whose last use is known: those that were used last."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records of a list, and the id to go on after; None at the end."""

    records: list[KeyRecord]
    next_after: str | None


async def put_key(store: Redis, record: KeyRecord, actor: Actor | None = None) -> None:
    """Write a new record; returns once the store has it on disk (it runs with `appendfsync always`)."""
    if record.is_declared:
        raise AlreadyDeclared
    with store_errors():
        async with store.pipeline(transaction=True) as pipe:
            _write_key(pipe, record)
            if actor is not None:
                audit.append(pipe, actor, "key.create", record.kid, before=None, after=record.shown())
            await pipe.execute()
    if actor is not None:
        audit.told(actor, "key.create", record.kid)


async def change_key(
    store: Redis, kid: str, change: Callable[[KeyRecord], KeyRecord], actor: Actor, action: str = "key.change"
) -> KeyRecord | None:
    """Apply `change` to a record that nobody else changes or deletes meanwhile; None when there is none.

    Raises `StoreUnavailableError` also when others change the same record again and again.
    """
    with store_errors():
        for _ in range(_CHANGE_TRIES):
            async with store.pipeline() as pipe:
                await pipe.watch(key_names.key(kid))
                record = _read(KeyRecord.from_json, kid, await pipe.get(key_names.key(kid)))
                if record is None:
                    return None
                changed = change(record)
                pipe.multi()  # type: ignore[no-untyped-call]  # redis leaves it untyped
                _write_key(pipe, changed)
                audit.append(pipe, actor, action, kid, before=record.shown(), after=changed.shown())
                with contextlib.suppress(WatchError):
                    await pipe.execute()
                    audit.told(actor, action, kid)
                    return changed
    raise StoreUnavailableError("changed by others at the same time")


async def delete_key(store: Redis, kid: str, actor: Actor) -> bool:
    """Whether there was one, damaged ones included."""
    with store_errors():
        data = await store.get(key_names.key(kid))
        if data is None:
            return False
        record = _read(KeyRecord.from_json, kid, data)
        async with store.pipeline(transaction=True) as pipe:
            pipe.delete(key_names.key(kid))
            pipe.zrem(key_names.KEYS, kid)
            pipe.zrem(key_names.USED, kid)
            if record is not None:
                pipe.zrem(key_names.keys_of(record.tenant), kid)
            audit.append(pipe, actor, "key.delete", kid, before=None if record is None else record.shown(), after=None)
            deleted, *_ = await pipe.execute()
    if deleted:
        audit.told(actor, "key.delete", kid)
    return bool(deleted)


async def list_keys(store: Redis, *, tenant: str | None, after: str, count: int) -> Page:
    """Records in the order of their ids, from the first after `after`; those that are damaged are left out."""
    index = key_names.KEYS if tenant is None else key_names.keys_of(tenant)
    kids = await _names(store, index, after=after, count=count + 1)
    return Page(await fetch_keys(store, kids[:count]), kids[count - 1] if len(kids) > count else None)


async def fetch_key(store: Redis, kid: str) -> KeyRecord | None:
    with store_errors():
        return _read(KeyRecord.from_json, kid, await store.get(key_names.key(kid)))


async def fetch_keys(store: Redis, kids: Sequence[str]) -> list[KeyRecord]:
    """Those of them that exist, in the given order."""
    return await _fetch_many(store, kids, key_names.key, KeyRecord.from_json)


async def change_tenant(
    store: Redis,
    tenant: str,
    change: Callable[[TenantRecord], TenantRecord],
    actor: Actor,
    action: str = "tenant.change",
) -> TenantRecord:
    """As for keys, but without a record it is that of a tenant without limits that is changed."""
    place = key_names.tenant(tenant)
    with store_errors():
        for _ in range(_CHANGE_TRIES):
            async with store.pipeline() as pipe:
                await pipe.watch(place)
                before = _read(TenantRecord.from_json, tenant, await pipe.get(place))
                changed = change(before or TenantRecord(tenant))
                pipe.multi()  # type: ignore[no-untyped-call]  # as above
                pipe.set(place, changed.to_json())
                pipe.zadd(key_names.TENANTS, {tenant: 0})
                shown_before = None if before is None else before.shown()
                audit.append(pipe, actor, action, tenant, before=shown_before, after=changed.shown())
                with contextlib.suppress(WatchError):
                    await pipe.execute()
                    audit.told(actor, action, tenant)
                    return changed
    raise StoreUnavailableError("changed by others at the same time")


async def delete_tenant(store: Redis, tenant: str, actor: Actor) -> bool:
    """Whether there was one. Raises `TenantHasKeys`: without its record, its keys would be free of its limits."""
    before = await fetch_tenant(store, tenant)
    if before is None:
        return False
    with store_errors():
        async with store.pipeline() as pipe:
            await pipe.watch(key_names.keys_of(tenant))
            if await pipe.zcard(key_names.keys_of(tenant)):
                raise TenantHasKeys
            pipe.multi()  # type: ignore[no-untyped-call]  # as above
            pipe.delete(key_names.tenant(tenant))
            pipe.zrem(key_names.TENANTS, tenant)
            audit.append(pipe, actor, "tenant.delete", tenant, before=before.shown(), after=None)
            await pipe.execute()
    audit.told(actor, "tenant.delete", tenant)
    return True


async def fetch_tenant(store: Redis, tenant: str) -> TenantRecord | None:
    with store_errors():
        return _read(TenantRecord.from_json, tenant, await store.get(key_names.tenant(tenant)))


async def fetch_tenants(store: Redis, tenants: Sequence[str]) -> list[TenantRecord]:
    return await _fetch_many(store, tenants, key_names.tenant, TenantRecord.from_json)


async def list_tenants(store: Redis, *, after: str, count: int) -> tuple[list[TenantRecord], str | None]:
    """As for keys, in the order of names."""
    names = await _names(store, key_names.TENANTS, after=after, count=count + 1)
    return await fetch_tenants(store, names[:count]), names[count - 1] if len(names) > count else None


async def _names(store: Redis, index: str, *, after: str, count: int) -> list[str]:
    with store_errors():
        found: Any = await store.zrange(index, f"({after}" if after else "-", "+", bylex=True, offset=0, num=count)
    return [name.decode() for name in found]


async def note_used(store: Redis, used: dict[str, float]) -> None:
    """When each of these keys was seen last. An older time never replaces a newer one."""
    kids = list(used)
    with store_errors():
        for start in range(0, len(kids), _NOTED_AT_ONCE):
            part = {kid: used[kid] for kid in kids[start : start + _NOTED_AT_ONCE]}
            async with store.pipeline(transaction=False) as pipe:
                pipe.zadd(key_names.USED, part, gt=True)
                pipe.zremrangebyrank(key_names.USED, 0, -(USED_KEPT + 1))
                await pipe.execute()


async def last_used(store: Redis, kids: Sequence[str]) -> list[float | None]:
    if not kids:
        return []
    with store_errors():
        scores: list[float | None] = await store.zmscore(key_names.USED, list(kids))
    return scores


async def recently_used(store: Redis, *, since: float, count: int) -> list[str]:
    """Ids of keys that the fleet saw since then, the latest first."""
    with store_errors():
        kids: Any = await store.zrange(key_names.USED, "+inf", since, desc=True, byscore=True, offset=0, num=count)
    return [kid.decode() for kid in kids]


def _write_key(pipe: Pipeline, record: KeyRecord) -> None:
    pipe.set(key_names.key(record.kid), record.to_json())
    pipe.zadd(key_names.KEYS, {record.kid: 0})
    pipe.zadd(key_names.keys_of(record.tenant), {record.kid: 0})


RecordT = TypeVar("RecordT", KeyRecord, TenantRecord)


async def _fetch_many(
    store: Redis, names: Sequence[str], place: Callable[[str], str], read: Callable[[bytes], RecordT]
) -> list[RecordT]:
    found = []
    for start in range(0, len(names), _READ_AT_ONCE):
        part = names[start : start + _READ_AT_ONCE]
        with store_errors():
            values = await store.mget([place(name) for name in part])
        records = [_read(read, name, data) for name, data in zip(part, values, strict=True)]
        found += [record for record in records if record is not None]
    return found


def _read(read: Callable[[bytes], RecordT], name: str, data: bytes | str | None) -> RecordT | None:
    try:
        return None if data is None else read(data)  # type: ignore[arg-type]  # bytes: nothing is decoded
    except ValueError:  # one damaged record is no key; the others are none the worse
        logger.warning("record_damaged", extra={"id": name})
        return None
