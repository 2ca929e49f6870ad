"""What a request costs in calls to the stores and in connections, counted; devstack.costs says the same."""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING

import httpx2
import pytest
from redis import Redis

from devstack import costs
from support.platform import ADMIN_KEY, Platform, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 5
REQUESTS = 4
OPEN = 12
OPEN_S = 4
"""Of an answer whose calls by the second are counted."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Valkey]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(valkey(name, tmp_path_factory.mktemp(name))) for name in costs.STORES}


@pytest.fixture(scope="module")
def own(stores: dict[str, Valkey]) -> Iterator[Platform]:
    """Reapers sleep, so that what is counted is the requests'; nothing is answered from the gateway's memory."""
    still = {"reap_interval_s": 60}
    gateway = {"limits_url": stores["limits"].url, "hot_entries_life_s": 0}
    with platform(
        stores["state"].url, stores["cache"].url, of_gateway=gateway, of_jobs=still, of_worker=still
    ) as started:
        yield started


@pytest.fixture(scope="module")
def http(own: Platform) -> Iterator[httpx2.Client]:
    """Of a key with limits: one without asks the limits store nothing."""
    ample = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "max_concurrency": 10**5}
    answer = httpx2.post(
        f"{own.gateway}/admin/keys",
        json={"tenant": "measured", "name": "a test's", "limits": ample},
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
        trust_env=False,
    )
    with own.http(answer.json()["key"]) as client:
        client.timeout = httpx2.Timeout(60)
        yield client


class Scripts:
    """Counts the scripts that ran in each store: every call of ours on the request path is one."""

    def __init__(self, stores: dict[str, Valkey]) -> None:
        self._stores = {name: Redis.from_url(store.url, socket_timeout=30) for name, store in stores.items()}

    def count(self) -> dict[str, int]:
        # https://valkey.io/commands/info: commandstats
        found = {name: store.info("commandstats") for name, store in self._stores.items()}
        return {name: stats.get("cmdstat_evalsha", {}).get("calls", 0) for name, stats in found.items()}

    def per_request(self, ask: Callable[[int], None]) -> dict[str, float]:
        """The median of some rounds: a store that a busy machine made late is asked again, or not at all."""
        ask(-1)
        rounds = []
        for round_ in range(ROUNDS):
            before = self.settled()
            for number in range(REQUESTS):
                ask(round_ * REQUESTS + number)
            after = self.settled()
            rounds.append({name: (after[name] - before[name]) / REQUESTS for name in before})
        return {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
