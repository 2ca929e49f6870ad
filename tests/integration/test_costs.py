"""What a request costs in calls to the stores and in connections, counted; devstack.costs says the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import pytest
from redis import Redis

from devstack import costs
from support.platform import ADMIN_KEY, Platform, chat, eventually, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUMBERS = itertools.count()
"""Of prompts: none is sent twice."""
TRIES = 5
ROUNDS = 3
REQUESTS = 4
"""In a round."""
TOGETHER = 6
OPEN = 12
SPARE = 6
"""Connections that are kept from before."""
OPEN_S = 2
STREAM = f"[[sim tokens=30 itl_ms={OPEN_S * 1_000 // 30}]]"
_LOOK_S = 0.1
_QUIET_LOOKS = 3
_LOOKS = 300


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
    client = own.http(answer.json()["key"])
    client.timeout = httpx2.Timeout(60)
    with client:
        yield client


class Scripts:
    """Counts the scripts that ran in each store: every call of ours on a request's path is one."""

    def __init__(self, stores: dict[str, Valkey]) -> None:
        self._stores = {name: Redis.from_url(store.url, socket_timeout=30) for name, store in stores.items()}

    def close(self) -> None:
        for store in self._stores.values():
            store.close()

    def counted(self) -> dict[str, int]:
        """Source: https://valkey.io/commands/info, section commandstats."""
        found = {name: store.info("commandstats") for name, store in self._stores.items()}
        return {name: stats.get("cmdstat_evalsha", {}).get("calls", 0) for name, stats in found.items()}

    def settled(self) -> dict[str, int]:
        """Once nothing comes any more: what an answer leaves to do belongs to its request."""
        last, alike = self.counted(), 0
        for _ in range(_LOOKS):
            time.sleep(_LOOK_S)  # nobody tells when a process has nothing left to do
            now = self.counted()
            last, alike = now, alike + 1 if now == last else 0
            if alike == _QUIET_LOOKS:
                return now
        raise TimeoutError

    def per_request(self, ask: Callable[[int], None]) -> dict[str, float]:
        """The median of some rounds: what a busy machine made late is left out, or asked again."""
        ask(next(NUMBERS))
        rounds = []
        for _ in range(ROUNDS):
            before = self.settled()
            for _ in range(REQUESTS):
                ask(next(NUMBERS))
            after = self.settled()
            rounds.append({name: (after[name] - before[name]) / REQUESTS for name in before})
        return {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}


@pytest.fixture
def scripts(stores: dict[str, Valkey]) -> Iterator[Scripts]:
    counting = Scripts(stores)
    yield counting
    counting.close()


def assert_fits(count: Callable[[], tuple[dict[str, float], float]], kind: costs.Kind) -> dict[str, float]:
    """Once of some times: a store that a busy machine makes late is not asked, or asked again. Returns the counts."""
    for _ in range(TRIES):
        counted, open_s = count()
        if fits(counted, kind, open_s):
            return counted
    raise AssertionError((kind, counted, open_s))


def fits(counted: dict[str, float], kind: costs.Kind, open_s: float = 0) -> bool:
    """Settlements and usage of several requests go together, once a second: hence a share of a call more.

    Not `state`: its workers ask for work all the time, whoever asks the gateway for what.
    """
    for store in ("limits", "cache"):
        said = costs.COSTS[kind].calls.get(store, 0)
        most = said + costs.OPEN_CALLS_PER_S[store] * open_s
        if not said <= counted[store] <= most + 0.75:
            return False
    return True


def test_a_miss_and_a_hit_call_the_stores_as_often_as_the_table_says(http: httpx2.Client, scripts: Scripts) -> None:
    def ask(prompt: str) -> None:
        assert http.post("/v1/chat/completions", json=chat(prompt)).status_code == 200

    assert_fits(lambda: (scripts.per_request(lambda number: ask(f"a question of its own, {number}")), 0), "miss")
    assert_fits(lambda: (scripts.per_request(lambda _: ask("always the same question")), 0), "hit")


def test_a_stream_that_others_may_follow_calls_the_stores_each_second_as_well(
    http: httpx2.Client, scripts: Scripts
) -> None:
    def ask(number: int) -> None:
        asked = chat(f"a stream to follow, {number} {STREAM}", stream=True)
        with http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            assert answer.read().endswith(b"[DONE]\n\n")

    def count() -> tuple[dict[str, float], float]:
        before = scripts.settled()
        began = time.monotonic()
        with ThreadPoolExecutor(TOGETHER) as clients:
            list(clients.map(ask, itertools.islice(NUMBERS, TOGETHER)))
        seconds = time.monotonic() - began
        return {name: (now - before[name]) / TOGETHER for name, now in scripts.settled().items()}, seconds

    counted = assert_fits(count, "stream")
    assert counted["cache"] >= costs.COSTS["stream"].calls["cache"] + OPEN_S


def test_a_job_calls_the_state_store_as_often_as_the_table_says(http: httpx2.Client, scripts: Scripts) -> None:
    def run(number: int) -> None:
        asked = {"endpoint": "/v1/chat/completions", "body": chat(f"a job of its own, {number}")}
        path = ""
        while not path:  # 503: the store was late
            path = http.post("/v1/jobs", json=asked).headers.get("location", "")
        while http.get(f"{path}?wait=5").json().get("state") != "succeeded":
            pass

    found: list[float] = []
    while (said := costs.COSTS["job"].calls["state"]) not in found and len(found) < TRIES:
        found.append(scripts.per_request(run)["state"])
    assert said in found


def kept_bytes(store: Valkey, pattern: str) -> dict[str, int]:
    """Of each name like `pattern` what it takes. Source: https://valkey.io/commands/memory-usage/."""
    with Redis.from_url(store.url, socket_timeout=30, decode_responses=True) as client:
        return {name: client.memory_usage(name, samples=0) for name in client.scan_iter(pattern, count=1_000)}


@pytest.mark.parametrize(("kind", "is_stream"), [("miss", False), ("stream", True)])
@pytest.mark.parametrize("tokens", [50, 500])
def test_a_stored_answer_takes_what_the_table_says(
    http: httpx2.Client, stores: dict[str, Valkey], kind: costs.Kind, tokens: int, *, is_stream: bool
) -> None:
    before = kept_bytes(stores["cache"], "v1:entry:*")
    asked = chat(f"an answer to weigh, {next(NUMBERS)} [[sim tokens={tokens}]]", stream=is_stream)
    assert http.post("/v1/chat/completions", json=asked).status_code == 200

    def new() -> list[int]:
        return [size for name, size in kept_bytes(stores["cache"], "v1:entry:*").items() if name not in before]

    assert eventually(new)
    (size,) = new()
    alone, each = costs.ENTRY_BYTES[kind]
    assert size == pytest.approx(alone + each * tokens, rel=0.25)


@pytest.mark.parametrize("tokens", [50, 2_000])
def test_a_finished_job_takes_what_the_table_says(http: httpx2.Client, stores: dict[str, Valkey], tokens: int) -> None:
    asked = {"endpoint": "/v1/chat/completions", "body": chat(f"{next(NUMBERS)} [[sim tokens={tokens}]]")}
    accepted = http.post("/v1/jobs", json=asked)
    assert http.get(f"{accepted.headers['location']}?wait=30").json()["state"] == "succeeded"
    size = sum(kept_bytes(stores["state"], f"*{accepted.json()['id']}*").values())
    alone, each = costs.JOB_BYTES
    indexes = 700  # its places in the lists of all, and of its tenant's, and of its end
    assert size + indexes == pytest.approx(alone + each * tokens, rel=0.25)


def established(port: int) -> int:
    """Connections of clients to that port. Source: proc(5), /proc/net/tcp; 01 is ESTABLISHED."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and int(row[2].split(":")[1], 16) == port for row in rows)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="counts connections as Linux lists them")
async def test_open_streams_hold_as_many_connections_as_the_table_says(own: Platform, http: httpx2.Client) -> None:
    ports = {part: int(str(urlsplit(getattr(own, part)).port)) for part in ("gateway", "inference", "cache")}
    upstream = int(str(urlsplit(own.simulator).port))

    async def hold(client: httpx2.AsyncClient, number: int, arrived: asyncio.Semaphore) -> None:
        asked = chat(f"a stream of its own, {number} {STREAM}", stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            arrived.release()
            async for _ in chunks:
                pass

    arrived = asyncio.Semaphore(0)
    of_others = established(ports["gateway"])
    client = httpx2.AsyncClient(base_url=own.gateway, headers=http.headers, timeout=60, trust_env=False)
    async with client, asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(OPEN):
            group.create_task(hold(client, number, arrived))
        for _ in range(OPEN):
            await arrived.acquire()
        await asyncio.sleep(1)  # those who attend do so after a quarter of a second
        held = {part: established(port) for part, port in ports.items()}
        to_upstream = established(upstream)
    connections = costs.COSTS["stream"].connections
    of_gateway = held["gateway"] - of_others + held["inference"] + held["cache"]
    of_inference = held["inference"] + to_upstream
    idle = OPEN + SPARE  # look-ups of streams that began together have a pool of their own
    for counted, part in ((of_gateway, "gateway"), (of_inference, "inference"), (held["cache"], "cache")):
        assert connections[part] * OPEN <= counted <= connections[part] * OPEN + idle, (part, held, to_upstream)
