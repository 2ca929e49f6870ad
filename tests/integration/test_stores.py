"""How long a client of a store waits, and for whom."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import RedisError

from common import stores
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from pathlib import Path


async def test_an_answer_that_came_in_time_counts_though_this_process_was_busy(state_store: Valkey) -> None:
    client = stores.connect(state_store.url)
    await client.set("name", "value")
    await client.client_pause(100)
    asking = asyncio.ensure_future(client.get("name"))
    await asyncio.sleep(0.01)  # it is sent, and the answer comes in 100 ms
    time.sleep(2 * stores.CALL_TIMEOUT_S)  # noqa: ASYNC251  # what is tested
    assert await asking == b"value"
    await stores.close(client)


async def test_a_frozen_store_ends_a_call_of_any_size(tmp_path: Path) -> None:
    with valkey("state", tmp_path) as server:
        client = stores.connect(server.url)
        await client.ping()
        server.freeze()
        for value in (b"small", b"x" * 8 * 1024 * 1024):
            async with asyncio.timeout(10):
                with pytest.raises(RedisError):
                    await client.set("name", value)
        server.thaw()
        await stores.close(client)


async def test_who_listens_waits_as_long_as_it_says_and_is_not_cut_off(state_store: Valkey) -> None:
    client = stores.connect(state_store.url, call_timeout_s=0.05)
    async with asyncio.timeout(10), client.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe("channel")
        for _ in range(2):  # the first has the word that it subscribed
            assert await subscription.get_message(timeout=0.5) is None
        await client.publish("channel", "news")
        message = await subscription.get_message(timeout=0.5)
        assert message is not None
        assert message["data"] == b"news"
    await stores.close(client)
