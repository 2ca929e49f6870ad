"""The gateway's instruments, as a client makes them move; nobody from outside can make a series."""

from __future__ import annotations

import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from redis import Redis
from starlette.applications import Starlette

from common.guard.door import Door
from common.guard.protocol import guarded
from common.telemetry.refusals import Refusals
from support.governed import governed, limited_key
from support.platform import BOUND_S, Platform, chat, eventually
from support.server import running
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from support.instruments import Instruments

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def limits_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey("limits", tmp_path_factory.mktemp("limits")) as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    state_store: Valkey, cache_store: Valkey, limits_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    with governed(
        state_store.url, cache_store.url, limits_store.url, tmp_path_factory.mktemp("models"), max_concurrency=4
    ) as started:
        yield started


@pytest.fixture
def http(stack: Platform) -> Iterator[httpx2.Client]:
    with stack.http() as client:
        yield client


@pytest.fixture
def gateway(stack: Platform) -> Moved:
    """From when the limits are exact: on a busy machine their store may just have missed its time."""
    warm = limited_key(stack, limits={"requests_per_minute": 6_000})
    assert eventually(lambda: "x-ratelimit-degraded" not in warm.post(chat("warm")).headers)
    return Moved(stack.instruments["gateway"])


class Moved:
    """What an instrument's values grew by since this test began."""

    def __init__(self, instruments: Instruments) -> None:
        self.instruments = instruments
        self._before: dict[tuple[str, ...], dict[tuple[Any, ...], float]] = {}
        self._then = {(name, attributes): instruments.value(name, dict(attributes)) for name, attributes in self._all()}

    def _all(self) -> set[tuple[str, frozenset[tuple[str, object]]]]:
        return self.instruments.series()

    def by(self, name: str, *attributes: str) -> dict[tuple[object, ...], float]:
        grown: dict[tuple[object, ...], float] = {}
        for series, found in self._all():
            if series == name:
                value = self.instruments.value(name, dict(found)) - self._then.get((name, found), 0)
                if value:
                    key = tuple(dict(found).get(attribute) for attribute in attributes)
                    grown[key] = grown.get(key, 0) + value
        return grown


def test_answers_are_counted_by_what_the_cache_said(http: httpx2.Client, gateway: Moved, prompt: str) -> None:
    assert http.post(CHAT, json=chat(prompt)).headers["x-cache"] == "miss"
    assert eventually(lambda: http.post(CHAT, json=chat(prompt)).headers["x-cache"] == "hit")
    http.post(CHAT, json=chat(prompt), headers={"cache-control": "no-store"})

    moved = gateway.by("spillway.cache.requests", "outcome", "endpoint")
    assert (moved["miss", CHAT], moved["hit", CHAT], moved["bypass", CHAT]) == (1, 1, 1)
    assert eventually(lambda: gateway.by("spillway.cache.puts", "outcome") == {("stored",): 1})


def test_limits_count_who_was_let_in_who_was_not_and_which_limit_it_was(
    stack: Platform, gateway: Moved, prompt: str
) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 2, "tokens_per_minute": 100_000})
    statuses = [key.post(chat(f"{prompt} {number}")).status_code for number in range(3)]
    assert statuses == [200, 200, 429]

    assert gateway.by("spillway.limits.admissions", "outcome", "limit", "scope") == {
        ("admitted", "", ""): 2,
        ("refused", "requests_per_minute", "key"): 1,
    }
    assert gateway.by("spillway.refusals", "reason", "scope") == {("key_requests_per_minute_exceeded", "key"): 1}
    assert gateway.by("spillway.limits.utilization", "limit") == {("requests_per_minute",): 2}
    total = gateway.instruments.total("spillway.limits.utilization", {"limit": "requests_per_minute"})
    assert total >= 1.5  # of this key a half, then all


def test_a_limit_that_only_watches_is_counted_beside_what_was_decided(
    stack: Platform, gateway: Moved, prompt: str
) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 1, "mode": "shadow"})
    assert [key.post(chat(f"{prompt} {number}")).status_code for number in range(2)] == [200, 200]
    assert gateway.by("spillway.limits.admissions", "outcome", "limit", "scope") == {
        ("admitted", "", ""): 2,
        ("shadow", "requests_per_minute", "key"): 1,
    }


def test_a_refusal_under_an_idempotency_key_is_counted_as_one(stack: Platform, gateway: Moved, prompt: str) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 1})
    for number in range(2):
        key.post(chat(f"{prompt} {number}"), **{"idempotency-key": uuid.uuid4().hex})
    assert gateway.by("spillway.refusals", "reason", "scope") == {("key_requests_per_minute_exceeded", "key"): 1}


def test_what_an_idempotency_key_did_is_counted(http: httpx2.Client, gateway: Moved, prompt: str) -> None:
    same = {"idempotency-key": uuid.uuid4().hex}
    for body in (chat(prompt), chat(prompt), chat(f"{prompt} Another.")):
        http.post(CHAT, json=body, headers=same)
    assert gateway.by("spillway.idempotency.requests", "outcome") == {("first",): 1, ("replayed",): 1, ("reused",): 1}


def test_who_is_let_in_while_the_limits_store_is_away_is_counted(
    stack: Platform, limits_store: Valkey, gateway: Moved, prompt: str
) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 100})
    with Redis.from_url(limits_store.url) as limits:
        limits.client_pause(1000)
        assert key.post(chat(prompt)).headers["x-ratelimit-degraded"] == "1"
        assert eventually(limits.ping)
    assert gateway.by("spillway.limits.admissions", "outcome") == {("degraded",): 1}
    assert gateway.by("spillway.fail_open", "mechanism") == {("limits",): 1}
    operations = gateway.by("db.client.operation.duration", "db.operation.name", "error.type")
    assert operations["admit", "LimitsStoreAwayError"] == 1


def test_calls_that_found_no_slot_at_once_say_how_long_they_waited(
    stack: Platform, gateway: Moved, prompt: str
) -> None:
    with ThreadPoolExecutor(6) as pool, stack.http() as http:
        bodies = [chat(f"{prompt} {number} [[sim ttft_ms=200]]") for number in range(6)]
        statuses = {answer.status_code for answer in pool.map(lambda body: http.post(CHAT, json=body), bodies)}
    assert statuses <= {200, 503}
    assert gateway.by("spillway.admission.wait.duration")
    assert gateway.instruments.values("spillway.admission.limit") == {(): 4}
    assert eventually(lambda: gateway.instruments.values("spillway.admission.in_flight") == {(): 0})


def test_failed_logins_are_counted(stack: Platform, gateway: Moved) -> None:
    with stack.http("sw_live_nobody") as nobody:
        assert nobody.post(CHAT, json=chat("who?")).status_code == 401
    assert gateway.by("spillway.failed_logins") == {(): 1}


def test_what_the_guard_refuses_is_counted_by_the_code_that_it_answers() -> None:
    refusals = Refusals()

    with running(Starlette(), http=guarded(Door(), refusals), lifespan="off") as url:
        at = urlsplit(url)
        for request in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection((at.hostname, at.port), BOUND_S) as wire:
                wire.sendall(request)
                while wire.recv(65_536):
                    pass
    assert refusals.counts["bad_host", "platform"] == 1
    assert refusals.counts.total() == 2


def test_a_thousand_made_up_models_paths_and_methods_make_no_new_series(stack: Platform) -> None:
    """Of any service: each hop hears of the model."""

    def made_up(number: int) -> None:
        name = f"made-up-{uuid.uuid4().hex}"
        match number % 4:
            case 0:
                client.post(CHAT, json={**chat("hello"), "model": name})
            case 1:
                client.post("/v1/embeddings", json={"model": name, "input": "hello"})
            case 2:
                client.get(f"/v1/models/{name}", headers={"x-made-up": name})
            case _:
                client.request(f"X{name.replace('-', '')}", f"/{name}", params={name: name})

    def series() -> set[tuple[str, str, frozenset[tuple[str, object]]]]:
        return {(service, *one) for service, instruments in stack.instruments.items() for one in instruments.series()}

    with ThreadPoolExecutor(4) as pool, stack.http() as client:
        list(pool.map(made_up, range(20)))
        known = series()
        list(pool.map(made_up, range(1000)))
    found = series()
    assert {one for one in found if "made" in str(one)} == set()
    assert len(found - known) < 20, "what works in the background may show for the first time, and no more"
