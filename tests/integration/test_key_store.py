from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from redis import Redis as SyncRedis

from common.stores import connect
from gateway.access import audit, key_names, key_store
from gateway.access.audit import Actor
from gateway.access.key_store import change_key, delete_key, fetch_key, put_key
from gateway.access.keys import Limits, generate_key
from gateway.access.records import KeyRecord, TenantRecord, record_for
from gateway.errors import TenantHasKeys
from support.platform import BOUND_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from support.valkey import Valkey

ACTOR = Actor.of("an-admin-key-of-the-tests", "req_1")


@pytest.fixture
async def store(state_store: Valkey) -> AsyncIterator[Redis]:
    async with connect(state_store.url, call_timeout_s=BOUND_S) as client:  # a busy machine's store may be late
        yield client


@pytest.fixture
def tenant() -> str:
    return f"acme-{generate_key('test').kid}"


@pytest.fixture
def record(tenant: str) -> KeyRecord:
    return record_for(generate_key("test").text, pepper="a-pepper-of-tests", tenant=tenant, name="a name")


async def test_a_record_comes_back_as_it_was_put(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record, ACTOR)
    assert await fetch_key(store, record.kid) == record
    page = await key_store.list_keys(store, tenant=record.tenant, after="", count=10)
    assert (page.records, page.next_after) == ([record], None)


async def test_pages_hold_every_key_of_a_tenant_once(store: Redis, record: KeyRecord) -> None:
    kids = sorted(generate_key("test").kid for _ in range(7))
    for kid in kids:
        await put_key(store, dataclasses.replace(record, kid=kid))
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await key_store.list_keys(store, tenant=record.tenant, after=after, count=3)
        assert len(page.records) <= 3
        found += [known.kid for known in page.records]
        after = page.next_after
    assert found == kids


async def test_a_changed_record_keeps_what_was_not_named(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    changed = await change_key(store, record.kid, lambda now: dataclasses.replace(now, enabled=False), ACTOR)
    assert changed == dataclasses.replace(record, enabled=False)
    assert await fetch_key(store, record.kid) == changed


async def test_a_change_that_meets_a_deletion_does_not_bring_the_key_back(
    store: Redis, state_store: Valkey, record: KeyRecord
) -> None:
    await put_key(store, record)
    with SyncRedis.from_url(state_store.url) as other:

        def change(now: KeyRecord) -> KeyRecord:
            other.delete(key_names.key(record.kid))  # between the change's reading and its writing
            return dataclasses.replace(now, name="renamed")

        assert await change_key(store, record.kid, change, ACTOR) is None
    assert await fetch_key(store, record.kid) is None


async def test_a_damaged_record_is_no_key_and_can_be_deleted(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    await store.set(key_names.key(record.kid), b'{"kid": 1, "digest": null, "tenant": "a", "name": "b"}')
    assert await fetch_key(store, record.kid) is None
    assert (await key_store.list_keys(store, tenant=record.tenant, after="", count=10)).records == []
    assert await delete_key(store, record.kid, ACTOR)
    assert not await delete_key(store, record.kid, ACTOR)


async def test_every_change_is_in_the_trail_with_what_changed_and_without_a_secret(
    store: Redis, record: KeyRecord
) -> None:
    await put_key(store, record, ACTOR)
    limits = Limits(requests_per_minute=5)
    await change_key(store, record.kid, lambda now: dataclasses.replace(now, limits=limits, enabled=False), ACTOR)
    await change_key(store, record.kid, lambda now: now.rotated("e" * 64, 99.5), ACTOR, "key.rotate")
    await delete_key(store, record.kid, ACTOR)
    entries = await audit.newest(store, count=4, before=None)
    assert [entry["action"] for entry in entries] == ["key.delete", "key.rotate", "key.change", "key.create"]
    assert {entry["subject"] for entry in entries} == {record.kid}
    assert {entry["by"] for entry in entries} == {ACTOR.name}
    assert entries[2]["before"]["enabled"] is True
    assert entries[2]["after"] == {"enabled": False, "limits": dataclasses.asdict(limits)}
    assert entries[1]["after"] == {"previous_until": 99.5}
    assert (entries[0]["after"], entries[3]["before"]) == (None, None)
    written = str(await store.xrange(key_names.AUDIT))
    for secret in (record.digest, "e" * 64, "an-admin-key"):
        assert secret not in written
    assert await audit.newest(store, count=2, before="0-0") == []
    older = await audit.newest(store, count=2, before=entries[1]["id"])
    assert older[:2] == entries[2:4]


async def test_a_change_that_cannot_be_written_to_the_trail_does_not_happen(store: Redis, record: KeyRecord) -> None:
    await put_key(store, record)
    before = await store.xlen(key_names.AUDIT)
    assert await change_key(store, "0" * 16, lambda now: now, ACTOR) is None
    assert await store.xlen(key_names.AUDIT) == before


async def test_a_tenants_record_stays_while_it_has_keys(store: Redis, record: KeyRecord) -> None:
    tenant = TenantRecord(record.tenant, enabled=False, limits=Limits(max_concurrency=2))
    assert await key_store.change_tenant(store, tenant.tenant, lambda _: tenant, ACTOR) == tenant
    await put_key(store, record)
    assert await key_store.fetch_tenant(store, record.tenant) == tenant
    with pytest.raises(TenantHasKeys):
        await key_store.delete_tenant(store, record.tenant, ACTOR)
    await delete_key(store, record.kid, ACTOR)
    assert await key_store.delete_tenant(store, record.tenant, ACTOR)
    assert not await key_store.delete_tenant(store, record.tenant, ACTOR)


async def test_a_later_use_is_never_replaced_by_an_earlier_one(store: Redis) -> None:
    kids = [generate_key("test").kid for _ in range(2)]
    await key_store.note_used(store, {kids[0]: 2e9, kids[1]: 2e9 + 1})
    await key_store.note_used(store, {kids[0]: 1e9})
    assert await key_store.last_used(store, [*kids, "0" * 16]) == [2e9, 2e9 + 1, None]
    assert await key_store.recently_used(store, since=2e9 - 1, count=10) == kids[::-1]
    assert await key_store.recently_used(store, since=2e9 + 1, count=10) == kids[1:]
