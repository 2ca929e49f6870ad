"""How far the stores may be replicated or clustered: what a Sentinel, or a cluster, may do behind one address."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from redis import Redis

from cache.entries import Entries
from cache.flights import Flights
from cache.inventory import Inventory
from common.stores import connect, is_reachable
from gateway.access import key_store
from gateway.access.audit import Actor
from gateway.access.keys import Limits, Policy, generate_key
from gateway.access.records import TenantRecord, record_for
from gateway.caching.sealing import Sealer
from gateway.errors import StoreUnavailableError
from gateway.idempotency.records import Keeping, Records
from gateway.limits.learning import Experience
from gateway.limits.ledger import Ledger
from gateway.limits.limiter import Limiter
from gateway.limits.local import LocalLimits
from gateway.limits.settling import Settling
from gateway.limits.store import LimitsStore
from gateway.store_breaker import StoreBreaker
from jobs.store import JobStore
from jobs.transitions import Transitions
from support.clock import Clock
from support.job_queue import JobQueue
from support.limits import call_under, known_models, unique
from support.valkey import Valkey, valkey
from support.watched_store import cluster_of_one, witness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACTOR = Actor.of("an-admin-key-of-the-tests", "req_1")
FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with cluster_of_one(tmp_path_factory.mktemp("cluster")) as server:
        yield server


def digests(*texts: str) -> set[str]:
    return {hashlib.sha1(text.encode()).hexdigest() for text in texts}  # noqa: S324  # how EVALSHA names a script


def every_text(package: str) -> list[str]:
    """Of the scripts beside its modules."""
    return [part.read_text() for part in resources.files(package).iterdir() if part.name.endswith(".lua")]


async def test_every_script_of_the_cache_keeps_to_one_slot(cluster: Valkey) -> None:
    with witness(cluster.url) as seen:
        async with connect(cluster.url) as store:
            entries = Entries(store)
            flights = Flights(store, entries)
            tenant, flight, follower = unique("tenant"), "a" * 32, "b" * 32
            assert (await flights.look_up(tenant, FINGERPRINT, own_id=flight)).word == "lead"
            assert (await flights.look_up(tenant, FINGERPRINT, own_id=follower)).word == "follow"
            assert await flights.append(tenant, FINGERPRINT, flight, [b"a frame"], first=0)
            assert await flights.read(tenant, FINGERPRINT, flight, first=0, follower=follower) == ("open", [b"a frame"])
            assert await flights.renew(tenant, FINGERPRINT, flight) == (True, 1)
            await flights.leave(tenant, FINGERPRINT, flight, follower)
            assert await flights.release(tenant, FINGERPRINT, flight, unless_followed=True)
            await entries.put(tenant, FINGERPRINT, b"an answer", ttl_s=60)
            assert (await flights.look_up(tenant, FINGERPRINT)).word == "hit"
            await entries.put_many(tenant, [(FINGERPRINT[::-1], b"another")], ttl_s=60)
            assert len(await entries.get_many(tenant, [FINGERPRINT, FINGERPRINT[::-1]])) == 2
            inventory = Inventory(store)
            assert (await inventory.statistics())["tenants"][tenant]["stored"] == 2
            assert (await inventory.purge(within_s=60))["deleted"] == 2
    assert seen.torn == []
    assert seen.scripts == digests(*every_text("cache"))


async def test_every_script_of_the_limits_keeps_to_one_slot(cluster: Valkey) -> None:
    limits = Limits(
        requests_per_minute=100,
        tokens_per_minute=10_000,
        max_concurrency=5,
        budget_usd_per_day=1,
        budget_usd_per_month=9,
    )
    policy = Policy(limits, tenant_limits=limits, key_model_limits={"m": limits}, tenant_model_limits={"m": limits})
    clock, tenant = Clock(), unique("tenant")
    with witness(cluster.url) as seen:
        async with connect(cluster.url) as client:
            store = LimitsStore(client)
            settling, ledger = Settling(store, clock=clock), Ledger(store)
            prices = known_models({"input_usd": 1.0, "output_usd": 1.0})
            limiter = Limiter(prices, LocalLimits(1), Experience(), ledger, store, settling)
            async with store.working():
                admission = await limiter.admit(call_under(policy, tenant=tenant, max_tokens=10))
                clock.now += 60
                await settling.renew()
                admission.reservation.release()
                await settling.flush()
                await ledger.flush()
                assert not store.is_resting
    assert seen.torn == []
    assert seen.scripts == digests(*every_text("gateway.limits"))


async def test_every_script_of_an_idempotency_record_keeps_to_one_slot(cluster: Valkey) -> None:
    with witness(cluster.url) as seen:
        async with connect(cluster.url) as store:
            breaker = StoreBreaker(lambda: is_reachable(store))
            records = Records(store, Sealer("a-secret-of-the-gateway"), Keeping(), breaker=breaker)
            assert (await records.claim("one", owner="o", tenant="alice", body="b")).outcome == "claimed"
            assert await records.renew("one", owner="o") is not None
            assert await records.finish("one", owner="o", tenant="alice", answer=b"an answer")
            assert (await records.claim("one", owner="p", tenant="alice", body="b")).answer == b"an answer"
            assert (await records.claim("two", owner="o", tenant="bob", body="b")).outcome == "claimed"
            await records.release("two", owner="o")
    assert seen.torn == []
    assert seen.scripts == digests(*every_text("gateway.idempotency"))


async def test_every_script_of_the_jobs_keeps_to_one_slot(cluster: Valkey) -> None:
    jobs = JobQueue(cluster.url)
    with witness(cluster.url) as seen:
        await jobs.accepted("a", "b", "c", "d", max_attempts=1)
        await jobs.accepted("e", tenant="bob")
        first = await jobs.claim()
        assert await jobs.transitions.heartbeat(15_000, [first]) == ["ok"]
        assert await jobs.transitions.append(first, [b"a chunk"], before=0, max_bytes=1_000) == "ok"
        assert await jobs.transitions.finish(first, "succeeded", status=200, result=b"a result") == "succeeded"
        assert await jobs.transitions.release(await jobs.claim(), delay_ms=5, give_back=True) == "delayed"
        assert await jobs.transitions.cancel((await jobs.claim()).id, tenant="") == "cancelled"
        dead = await jobs.claim()
        assert await jobs.transitions.release(dead, give_back=False, code="upstream_failed") == "failed"
        jobs.now += 60_000
        assert (await jobs.transitions.reap()).ready == 1
        assert await jobs.transitions.purge(dead.id)
        store = JobStore(jobs.redis, max_bytes=10**9, prefix=jobs.prefix)
        assert (await store.counts())["queued"] == 2
        await jobs.close()
    assert seen.torn == []
    known = Transitions(jobs.redis, max_bytes=lambda: 1)._scripts
    assert seen.scripts == {script.sha for script in known.values()}


async def test_a_key_its_audit_entry_and_its_tenant_change_in_one_slot(cluster: Valkey) -> None:
    """By MULTI, which a node of a cluster takes for one slot alone."""
    tenant = unique("tenant")
    record = record_for(generate_key("test").text, pepper="a-pepper-of-tests", tenant=tenant, name="a name")
    async with connect(cluster.url) as store:
        await key_store.put_key(store, record, ACTOR)
        assert await key_store.fetch_key(store, record.kid) == record
        assert await key_store.change_key(store, record.kid, lambda found: found, ACTOR) == record
        await key_store.note_used(store, {record.kid: 1.0})
        assert await key_store.recently_used(store, since=0, count=10) == [record.kid]
        assert await key_store.change_tenant(store, tenant, lambda it: it, ACTOR) == TenantRecord(tenant)
        assert await key_store.delete_key(store, record.kid, ACTOR)
        assert await key_store.delete_tenant(store, tenant, ACTOR)


async def test_a_script_that_needed_two_slots_would_be_noticed(cluster: Valkey) -> None:
    """The witness sees what is undeclared, too: a node that owns both slots would let it pass."""
    with witness(cluster.url) as seen:
        async with connect(cluster.url) as store:
            script = store.register_script("redis.call('SET', '{two}', 1) return redis.call('SET', KEYS[1], 1)")
            await script(keys=["{one}"])
    assert [digest for digest, _ in seen.torn] == [script.sha]


async def test_a_cluster_of_several_shards_counts_as_a_store_that_is_away() -> None:
    """Its redirections are not followed: a store is one endpoint, whatever stands behind it."""

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while heard := await reader.read(65_536):
            writer.write(b"-MOVED 3999 127.0.0.1:6381\r\n" * len(re.findall(rb"(?m)^\*\d+\r$", heard)))
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server, connect(url_of(server)) as store:
        with pytest.raises(StoreUnavailableError):
            await key_store.fetch_key(store, "0123456789abcdef")


async def test_after_a_failover_behind_the_same_address_the_services_go_on(tmp_path: Path) -> None:
    """What a Sentinel does: promote the replica, make the old primary one, and break its clients' connections."""
    record = record_for(generate_key("test").text, pepper="a-pepper-of-tests", tenant="acme", name="a name")
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(valkey("state", tmp_path / name)) for name in ("one", "two"))
        first, second = (stack.enter_context(Redis.from_url(server.url)) for server in (one, two))
        address = Address(port_of(one))
        first.config_set("repl-diskless-sync-delay", 0)
        second.config_set("shutdown-timeout", 0)  # no replica needs to catch up once the test is over
        second.replicaof("127.0.0.1", port_of(one))
        async with (
            await asyncio.start_server(address.relay, "127.0.0.1", 0) as server,
            connect(url_of(server)) as store,
        ):
            await key_store.put_key(store, record, ACTOR)
            assert first.wait(1, BOUND_MS) == 1
            second.replicaof("NO", "ONE")
            first.replicaof("127.0.0.1", port_of(two))
            with pytest.raises(StoreUnavailableError):
                await key_store.put_key(store, record, ACTOR)
            address.port = port_of(two)
            first.client_kill_filter(_type="normal", skipme=True)
            await key_store.put_key(store, record, ACTOR)
            assert await key_store.fetch_key(store, record.kid) == record


BOUND_MS = 20_000


class Address:
    """An address that stays while what stands behind it changes, as a Service or a managed endpoint does."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(pass_on(reader, forth), pass_on(back, writer))


async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
    target.close()


def url_of(server: asyncio.Server) -> str:
    return f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


def port_of(server: Valkey) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port
