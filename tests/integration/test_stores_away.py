"""The stores die, freeze and come back under a running platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import Redis

from support.platform import ADMIN_KEY, Platform, chat, eventually, make_key, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

pytestmark = pytest.mark.chaos
PAUSE_MS = 600
"""Thrice what a request would wait for the store."""


@pytest.fixture
def own_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A store that the test may break; its name is the parameter."""
    with valkey(request.param, tmp_path) as server:
        yield server


@pytest.fixture
def over_own_state(own_store: Valkey, cache_store: Valkey) -> Iterator[Platform]:
    with platform(own_store.url, cache_store.url) as started:
        yield started


@pytest.fixture
def over_own_cache(own_store: Valkey, state_store: Valkey) -> Iterator[Platform]:
    nothing_remembered = {"hot_entries_life_s": 0}  # a hit from the gateway's memory would hide the store's absence
    with platform(state_store.url, own_store.url, of_gateway=nothing_remembered) as started:
        yield started


def ask(http: httpx2.Client, prompt: str) -> httpx2.Response:
    return http.post("/v1/chat/completions", json=chat(prompt))


def hit(http: httpx2.Client, prompt: str) -> httpx2.Response | None:
    answer = ask(http, prompt)
    return answer if answer.headers["x-cache"] == "hit" else None


@pytest.mark.parametrize("own_store", ["cache"], indirect=True)
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_cache_store_that_is_gone_is_a_miss_and_heals(
    own_store: Valkey, over_own_cache: Platform, prompt: str, fault: str
) -> None:
    with over_own_cache.http() as http:
        eventually(lambda: hit(http, prompt))
        if fault == "freeze":
            own_store.freeze()
        else:
            own_store.kill()
        for _ in range(8):  # more than it takes until the cache is left alone
            answer = ask(http, prompt)
            assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")
        if fault == "freeze":
            own_store.thaw()
        else:
            own_store.bring_back()
        eventually(lambda: hit(http, prompt))


@pytest.mark.parametrize("own_store", ["state"], indirect=True)
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_while_the_state_store_is_gone_known_keys_work_and_unknown_ones_cannot_be_checked(
    own_store: Valkey, over_own_state: Platform, prompt: str, fault: str
) -> None:
    unknown_key = make_key(over_own_state.gateway, "carol")
    with over_own_state.http() as known, over_own_state.http(unknown_key) as unknown:
        assert ask(known, prompt).status_code == 200
        assert known.get("/readyz").json()["checks"] == {"state_store": "ok"}
        if fault == "freeze":
            own_store.freeze()
        else:
            own_store.kill()
        for _ in range(3):
            assert ask(known, prompt).status_code == 200
            refused = ask(unknown, prompt)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "key_store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        readiness = known.get("/readyz")
        assert (readiness.status_code, readiness.json()["checks"]) == (200, {"state_store": "degraded"})
        if fault == "freeze":
            own_store.thaw()
        else:
            own_store.bring_back()
        assert eventually(lambda: ask(unknown, prompt).status_code == 200)


@pytest.mark.parametrize("own_store", ["state"], indirect=True)
def test_a_key_is_made_although_the_state_store_pauses_and_none_while_it_is_gone(
    own_store: Valkey, over_own_state: Platform
) -> None:
    asked = {"tenant": "carol", "name": "x"}
    with over_own_state.http(ADMIN_KEY) as admin:
        with Redis.from_url(own_store.url) as store:
            store.client_pause(PAUSE_MS)
        assert admin.post("/admin/keys", json=asked).status_code == 201
        own_store.kill()
        answer = admin.post("/admin/keys", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "key_store_unavailable")


@pytest.mark.parametrize("own_store", ["state"], indirect=True)
def test_keys_outlive_a_crash_of_the_state_store(own_store: Valkey, over_own_state: Platform, prompt: str) -> None:
    key = make_key(over_own_state.gateway, "carol")
    own_store.kill()
    own_store.bring_back()
    with over_own_state.http(key) as http:
        assert eventually(lambda: ask(http, prompt).status_code == 200)


def test_a_gateway_whose_inference_is_dead_says_when_to_return(
    state_store: Valkey, cache_store: Valkey, prompt: str
) -> None:
    nobody = {"inference_url": "http://127.0.0.1:9"}
    with platform(state_store.url, cache_store.url, of_gateway=nobody) as started, started.http() as http:
        for path, body in (("/v1/chat/completions", chat(prompt)), ("/v1/chat/completions", chat(prompt, stream=True))):
            answer = http.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert http.get("/v1/models").status_code == 503


def test_services_that_do_not_trust_each_other_are_a_503_and_a_miss(
    state_store: Valkey, cache_store: Valkey, prompt: str
) -> None:
    wrong = "a-secret-that-only-the-gateway-knows-0123456789"
    secrets = {"inference_hop_secret": wrong}
    with platform(state_store.url, cache_store.url, of_gateway=secrets) as started, started.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(prompt))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hop_refused")
    secrets = {"cache_hop_secret": wrong}
    with platform(state_store.url, cache_store.url, of_gateway=secrets) as started, started.http() as http:
        for _ in range(2):
            answer = http.post("/v1/chat/completions", json=chat(prompt))
            assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")


def test_an_upstream_that_refuses_our_key_is_a_502_that_does_not_show_it(
    state_store: Valkey, cache_store: Valkey, prompt: str
) -> None:
    wrong = {"upstream_api_key": "sk-a-key-that-was-revoked"}
    with platform(state_store.url, cache_store.url, of_inference=wrong) as started, started.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(prompt))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_auth")
    assert "www-authenticate" not in answer.headers
    assert "sk-" not in answer.text
