from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from redis import Redis as SyncRedis

from common.stores import connect
from gateway.key_store import change_key, delete_key, fetch_key, list_keys, put_key
from gateway.keys import KeyRecord, generate_key, record_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from support.valkey import Valkey


@pytest.fixture
async def store(state_store: Valkey) -> AsyncIterator[Redis]:
    async with connect(state_store.url) as client:
        yield client


@pytest.fixture
def record() -> KeyRecord:
    return record_for(generate_key("test").text, pepper="a-pepper-of-tests", tenant="acme", name="a name")


async def test_a_record_comes_back_as_it_was_put(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    assert await fetch_key(store, record.kid) == record
    assert record in await list_keys(store)


async def test_a_changed_record_keeps_what_was_not_named(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    changed = await change_key(store, record.kid, lambda now: dataclasses.replace(now, enabled=False))
    assert changed == dataclasses.replace(record, enabled=False)
    assert await fetch_key(store, record.kid) == changed


async def test_a_change_that_meets_a_deletion_does_not_bring_the_key_back(
    store: Redis, state_store: Valkey, record: KeyRecord
) -> None:
    await put_key(store, record)
    with SyncRedis.from_url(state_store.url) as other:

        def change(now: KeyRecord) -> KeyRecord:
            other.delete(f"v1:key:{{{record.kid}}}")  # between the change's reading and its writing
            return dataclasses.replace(now, name="renamed")

        assert await change_key(store, record.kid, change) is None
    assert await fetch_key(store, record.kid) is None


async def test_a_damaged_record_is_no_key_and_can_be_deleted(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    await store.set(f"v1:key:{{{record.kid}}}", b'{"kid": 1, "digest": null, "tenant": "a", "name": "b"}')
    assert await fetch_key(store, record.kid) is None
    assert record.kid not in {known.kid for known in await list_keys(store)}
    assert await delete_key(store, record.kid)
    assert not await delete_key(store, record.kid)
