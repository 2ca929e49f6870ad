"""One key's limits over three gateways: they do not multiply. Seconds in the suite, a minute under `./justw chaos`."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from support.chaos import IS_LONG, times
from support.governed import LimitedKey, governed, limited_key
from support.platform import BOUND_S, TLS, Platform, chat
from support.replicas import Replica, replicas
from support.valkey import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.chaos, pytest.mark.measured, pytest.mark.timeout(300)]

REPLICAS = 3
CALLERS_A_REPLICA = 3
LEASE_S = 30
OFFERS = 3
LOAD_S = times(4, 60)
TOKENS = 50
NEW = {"cache-control": "no-store"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with contextlib.ExitStack() as parts:
        state, cache, limits = (
            parts.enter_context(valkey(name, tmp_path_factory.mktemp(name))) for name in ("state", "cache", "limits")
        )
        files = tmp_path_factory.mktemp("models")
        yield parts.enter_context(governed(state.url, cache.url, limits.url, files))


@pytest.fixture(scope="module")
def gateways(stack: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    with replicas(stack, REPLICAS, logs=tmp_path_factory.mktemp("logs"), expected_replicas=REPLICAS) as started:
        yield started


class Offer:
    """As many requests as `callers` of each replica can make, for some time; what came of them."""

    def __init__(self, key: LimitedKey, body: Callable[[int], dict[str, Any]]) -> None:
        self._key, self._body = key, body
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self.answers: list[httpx2.Response] = []
        self.degraded = 0
        self.took_s = 0.0

    def _call(self, url: str, until: float) -> None:
        authorization = {"authorization": f"Bearer {self._key.text}"} | NEW
        with httpx2.Client(base_url=url, headers=authorization, timeout=BOUND_S, verify=TLS, trust_env=False) as client:
            while time.monotonic() < until:
                with self._lock:
                    number = next(self._numbers)
                answer = client.post("/v1/chat/completions", json=self._body(number))
                with self._lock:
                    self.answers.append(answer)
                    self.degraded += "x-ratelimit-degraded" in answer.headers

    def make(self, gateways: list[Replica], seconds: float, callers: int = CALLERS_A_REPLICA) -> Offer:
        began = time.monotonic()
        urls = [gateway.url for gateway in gateways] * callers
        with ThreadPoolExecutor(len(urls)) as pool:
            for future in [pool.submit(self._call, url, began + seconds) for url in urls]:
                future.result()
        self.took_s = time.monotonic() - began
        return self

    @property
    def admitted(self) -> list[httpx2.Response]:
        return [answer for answer in self.answers if answer.status_code == httpx2.codes.OK]

    def check(self, offered_at_least: int) -> None:
        """Enough was offered, to all replicas; nothing but admissions and refusals came of it."""
        assert {answer.status_code for answer in self.answers} == {200, 429}
        assert len({answer.url.port for answer in self.answers}) == REPLICAS
        assert len(self.answers) >= offered_at_least


def exact_offer(make: Callable[[], Offer]) -> Offer:
    """An offer that the store decided about from its beginning to its end.

    A busy machine's store may miss its 200 ms; then each gateway grants its share, as it should, and nothing is shown.
    """
    for _ in range(OFFERS):
        offer = make()
        if offer.degraded == 0:
            return offer
        print(f"{offer.degraded} of {len(offer.answers)} were decided by a gateway alone: once more")  # noqa: T201
    pytest.fail(f"the store was late in each of {OFFERS} offers")


def test_requests_do_not_multiply_with_the_gateways(stack: Platform, gateways: list[Replica]) -> None:
    limit = times(20, 120)

    def make() -> Offer:
        key = limited_key(stack, limits={"requests_per_minute": limit})
        return Offer(key, lambda number: chat(f"requests {number} [[sim tokens=1]]")).make(gateways, LOAD_S)

    offer = exact_offer(make)
    most = limit + limit / 60 * offer.took_s + 1
    print(f"requests: offered {len(offer.answers)}, admitted {len(offer.admitted)} of {most:.1f}, {offer.took_s:.1f} s")  # noqa: T201
    offer.check(8 * limit)
    assert limit <= len(offer.admitted) <= most


def test_tokens_do_not_multiply_with_the_gateways(stack: Platform, gateways: list[Replica]) -> None:
    limit = times(1_500, 12_000)

    def body(number: int) -> dict[str, Any]:
        return chat(f"tokens {number} [[sim tokens={TOKENS}]]", max_tokens=TOKENS)

    def make() -> Offer:
        return Offer(limited_key(stack, limits={"tokens_per_minute": limit}), body).make(gateways, LOAD_S)

    offer = exact_offer(make)
    used = [answer.json()["usage"]["total_tokens"] for answer in offer.admitted]
    most = limit + limit / 60 * offer.took_s + max(used)
    print(f"tokens: offered {len(offer.answers)}, used {sum(used)} of {most:.0f}, {offer.took_s:.1f} s")  # noqa: T201
    offer.check(len(offer.admitted) + 1)
    assert len(offer.answers) * (TOKENS + 1) >= 2 * limit
    assert limit * 0.7 <= sum(used) <= most


def test_places_do_not_multiply_with_the_gateways(stack: Platform, gateways: list[Replica]) -> None:
    limit = 4
    began = 0

    def make() -> Offer:
        nonlocal began
        newest = stack.last_attempt()
        began = newest["seq"] if newest else 0
        key = limited_key(stack, limits={"max_concurrency": limit})
        offer = Offer(key, lambda number: chat(f"places {number} [[sim ttft_ms=150 tokens=1]]"))
        return offer.make(gateways, LOAD_S, callers=4)

    offer = exact_offer(make)
    attempts = stack.attempts_after(began)
    events = [(one["received"], 1) for one in attempts] + [
        (one["finished"] or one["cancelled"], -1) for one in attempts
    ]
    at_once = max(itertools.accumulate(step for _, step in sorted(events)))
    print(f"places: offered {len(offer.answers)}, admitted {len(offer.admitted)}, at once {at_once} of {limit}")  # noqa: T201
    offer.check(len(offer.admitted) + 1)
    assert at_once == limit


@pytest.mark.skipif(not IS_LONG, reason="leases live for 30 s: under ./justw chaos")
def test_a_killed_gateways_places_are_free_within_30_s(stack: Platform) -> None:
    key = limited_key(stack, limits={"max_concurrency": 2})
    with replicas(stack, 2, expected_replicas=2) as (victim, other), contextlib.ExitStack() as open_streams:
        authorization = {"authorization": f"Bearer {key.text}"}
        holder = open_streams.enter_context(
            httpx2.Client(base_url=victim.url, headers=authorization, timeout=None, trust_env=False)
        )
        asker = open_streams.enter_context(
            httpx2.Client(base_url=other.url, headers=authorization, timeout=BOUND_S, trust_env=False)
        )
        for number in range(2):
            body = chat(f"held {number} [[sim itl_ms=1000 tokens=1000]]", stream=True)
            held = open_streams.enter_context(holder.stream("POST", "/v1/chat/completions", json=body))
            assert held.status_code == 200
        refused = asker.post("/v1/chat/completions", json=chat("asked [[sim tokens=1]]"))
        assert refused.json()["error"]["code"] == "key_max_concurrency_exceeded"
        victim.kill()
        killed = time.monotonic()
        free_after_s = None
        while free_after_s is None and time.monotonic() - killed < LEASE_S + BOUND_S:
            if asker.post("/v1/chat/completions", json=chat("asked [[sim tokens=1]]")).status_code == 200:
                free_after_s = time.monotonic() - killed
        assert free_after_s is not None
        print(f"places of a killed gateway: free after {free_after_s:.1f} s")  # noqa: T201
        assert free_after_s <= LEASE_S + 1
