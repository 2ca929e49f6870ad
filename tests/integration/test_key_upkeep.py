"""Two replicas' memories of keys over one real store, round by round."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from common.errors import Unavailable
from common.stores import connect, is_reachable
from gateway.access import key_names, key_store
from gateway.access.authentication import Authenticator
from gateway.access.failed_logins import FailedLogins
from gateway.access.key_directory import FRESH_S, STALE_S, KeyDirectory
from gateway.access.key_reading import KeyReader
from gateway.access.key_upkeep import KeyUpkeep
from gateway.access.keys import ApiKey, generate_key
from gateway.access.keys_file import DeclaredKeys
from gateway.access.records import TenantRecord, record_for
from gateway.store_breaker import StoreBreaker
from support.clock import Clock
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from redis.asyncio import Redis

PEPPER = "a-pepper-kept-elsewhere"


@dataclass
class Replica:
    directory: KeyDirectory
    upkeep: KeyUpkeep
    authenticator: Authenticator

    async def tenant_of(self, key: ApiKey) -> str:
        return (await self.authenticator.authenticate(f"Bearer {key.text}")).tenant


@contextlib.asynccontextmanager
async def replica(store: Redis, clock: Clock) -> AsyncIterator[Replica]:
    async with contextlib.AsyncExitStack() as stack:
        breaker = StoreBreaker(lambda: is_reachable(store))
        stack.push_async_callback(breaker.close)
        reader = KeyReader(store, DeclaredKeys(None))
        directory = KeyDirectory(reader.one, breaker, clock=clock)
        upkeep = KeyUpkeep(store, directory, breaker, reader.many, clock=clock)
        authenticator = Authenticator(directory, FailedLogins(20), [PEPPER], note_used=upkeep.note_used)
        yield Replica(directory, upkeep, authenticator)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    with valkey("state", tmp_path) as server:
        yield server


@pytest.fixture
async def store(own: Valkey) -> AsyncIterator[Redis]:
    async with connect(own.url) as client:
        yield client


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_a_key_that_one_replica_met_works_on_the_other_during_an_outage(
    store: Redis, own: Valkey, fault: str
) -> None:
    met, unmet = generate_key("test"), generate_key("test")
    for key in (met, unmet):
        await key_store.put_key(store, record_for(key.text, pepper=PEPPER, tenant="alice", name="x"))
    clock = Clock()
    async with replica(store, clock) as one, replica(store, clock) as other:
        assert await one.tenant_of(met) == "alice"
        await one.upkeep.round()
        await other.upkeep.round()
        (own.freeze if fault == "freeze" else own.kill)()
        clock.advance(FRESH_S)
        assert await other.tenant_of(met) == "alice"
        with pytest.raises(Unavailable):
            await other.tenant_of(unmet)
        clock.advance(STALE_S)
        with pytest.raises(Unavailable):
            await other.tenant_of(met)
        await other.upkeep.round()  # harmless while the store is away


async def test_a_round_reads_tenants_too_and_only_what_is_old(store: Redis) -> None:
    key = generate_key("test")
    record = dataclasses.replace(record_for(key.text, pepper=PEPPER, tenant="alice", name="x"))
    await key_store.put_key(store, record)
    await store.set(key_names.tenant("alice"), TenantRecord("alice", enabled=False).to_json())
    clock = Clock()
    async with replica(store, clock) as one:
        one.upkeep.note_used(key.kid, time.time())
        await one.upkeep.round()
        known = one.directory.fresh(key.kid)
        assert known is not None
        assert not known.is_live(0)
        await store.delete(key_names.key(key.kid))
        await one.upkeep.round()
        assert one.directory.fresh(key.kid) is known, "it was confirmed just now"


async def test_uses_that_could_not_be_noted_are_noted_later(store: Redis, own: Valkey) -> None:
    clock = Clock()
    async with replica(store, clock) as one:
        one.upkeep.note_used("0" * 16, 2e9)
        own.kill()
        await one.upkeep.round()
        own.bring_back()
        async with one.upkeep.working():
            pass  # what is left is noted at the end
    assert await key_store.last_used(store, ["0" * 16]) == [2e9]


async def test_the_notes_of_uses_are_bounded(store: Redis) -> None:
    many = {f"{number:016x}": float(number) for number in range(key_store.USED_KEPT + 500)}
    await key_store.note_used(store, many)
    assert await store.zcard(key_names.USED) == key_store.USED_KEPT
    assert await key_store.last_used(store, [f"{499:016x}", f"{500:016x}"]) == [None, 500.0]
