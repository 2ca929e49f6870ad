from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError  # noqa: A004  # redis's own, meant

from cache.entries import Entries, Entry
from cache.errors import StoreUnavailable
from support.clock import Clock

if TYPE_CHECKING:
    from redis.asyncio import Redis

NAME = "0" * 64


class Store:
    """The three commands that entries need, or one error for all of them."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, int | None]] = {}
        self.error: Exception | None = None

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def get(self, name: str) -> bytes | None:
        self._fail()
        return self.values.get(name, (None, None))[0]

    async def set(self, name: str, value: bytes, ex: int) -> None:
        self._fail()
        self.values[name] = (value, ex)

    async def delete(self, name: str) -> int:
        self._fail()
        return int(self.values.pop(name, None) is not None)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entries(store: Store, clock: Clock) -> Entries:
    return Entries(cast("Redis", store), wall_clock=clock)


@pytest.mark.parametrize("value", [b"", b"sealed", bytes(range(256))])
async def test_what_is_put_is_got_with_its_age(entries: Entries, clock: Clock, value: bytes) -> None:
    await entries.put("alice", NAME, value, ttl_s=60)
    clock.advance(12.9)
    assert await entries.get("alice", NAME) == Entry(value, 12)


async def test_an_entry_is_only_its_tenants(entries: Entries) -> None:
    await entries.put("alice", NAME, b"sealed", ttl_s=60)
    assert await entries.get("bob", NAME) is None
    assert not await entries.delete("bob", NAME)
    assert await entries.get("alice", NAME) is not None


async def test_an_entry_is_kept_for_its_time_under_a_versioned_name(entries: Entries, store: Store) -> None:
    await entries.put("alice", NAME, b"sealed", ttl_s=60)
    assert [(name, ttl_s) for name, (_, ttl_s) in store.values.items()] == [(f"v1:entry:{{alice}}:{NAME}", 60)]


async def test_a_deleted_entry_is_gone_and_a_second_deletion_finds_none(entries: Entries) -> None:
    await entries.put("alice", NAME, b"sealed", ttl_s=60)
    assert [await entries.delete("alice", NAME), await entries.delete("alice", NAME)] == [True, False]
    assert await entries.get("alice", NAME) is None


async def test_a_clock_that_was_set_back_makes_no_negative_age(entries: Entries, clock: Clock) -> None:
    await entries.put("alice", NAME, b"sealed", ttl_s=60)
    clock.advance(-300)
    assert await entries.get("alice", NAME) == Entry(b"sealed", 0)


async def test_an_entry_too_short_to_be_one_is_none(entries: Entries, store: Store) -> None:
    store.values[f"v1:entry:{{alice}}:{NAME}"] = (b"1234567", None)
    assert await entries.get("alice", NAME) is None


@pytest.mark.parametrize(
    "error", [ConnectionError("x"), TimeoutError("x"), ResponseError("OOM"), RedisError("x"), OSError("x")]
)
async def test_whatever_is_wrong_with_the_store_is_one_error(entries: Entries, store: Store, error: Exception) -> None:
    store.error = error
    calls: list[Any] = [
        entries.get("alice", NAME),
        entries.put("alice", NAME, b"sealed", ttl_s=60),
        entries.delete("alice", NAME),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as failed:
            await call
        assert (failed.value.status, failed.value.code) == (503, "cache_store_unavailable")
