"""Whatever ends a call, nothing is held that nobody uses; and nothing is kept that nobody should see."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from redis import Redis

from support.governed import LimitedKey, decided, governed, limited_key
from support.platform import ADMIN_KEY, Platform, chat, eventually
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW = {"cache-control": "no-store"}
LIMIT = 1_000
"""Tokens a minute. So few that what trickles in while a test waits is no refund: 17 a second."""
HELD = {"tokens_per_minute": LIMIT, "max_concurrency": 1}
RESERVED = 900
ENDINGS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "refused by the upstream": ("[[sim status=400]]", {}, {}),
    "failed": ("[[sim how=garbage]]", {}, {}),
    "cut in mid-stream": ("[[sim tokens=5 cut_after=2 how=rst]]", {"stream": True}, {}),
    "past its deadline": ("[[sim ttft_ms=20000]]", {}, {"x-request-timeout-ms": "600"}),
    "late in mid-stream": ("[[sim itl_ms=400 tokens=99]]", {"stream": True}, {"x-request-timeout-ms": "900"}),
}


@pytest.fixture(scope="module")
def limits_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey("limits", tmp_path_factory.mktemp("limits")) as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    state_store: Valkey, cache_store: Valkey, limits_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    with governed(state_store.url, cache_store.url, limits_store.url, tmp_path_factory.mktemp("models")) as started:
        yield started


def is_settled(key: LimitedKey) -> bool:
    """The place is free, and next to no token is held."""
    answer = key.post(chat("[[sim tokens=1]] is it settled?", max_tokens=1), **NEW)
    return answer.status_code == 200 and int(answer.headers["x-ratelimit-remaining-tokens"]) > LIMIT - 200


@pytest.mark.parametrize(("directive", "fields", "headers"), ENDINGS.values(), ids=ENDINGS)
def test_a_call_that_failed_gives_back_what_it_did_not_use(
    stack: Platform, prompt: str, directive: str, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    key = limited_key(stack, limits=HELD)
    with contextlib.suppress(httpx2.RemoteProtocolError, httpx2.ReadError):  # a stream that was cut
        key.post(chat(f"{directive} {prompt}", max_tokens=RESERVED, **fields), **headers)
    assert eventually(lambda: is_settled(key))


def test_an_upstreams_refusal_is_its_own(stack: Platform, prompt: str) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 60})
    refused = key.post(chat(f"[[sim status=429]] {prompt}"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "upstream_rate_limited")
    assert refused.headers["x-ratelimit-remaining-requests"] == "59"
    assert decided(refused)["refused"] == "upstream"


def test_an_answer_that_was_judged_before_the_limits_has_an_account_too(stack: Platform) -> None:
    key = limited_key(stack, limits={"requests_per_minute": 60})
    answer = key.post({"model": "sim-small"})
    assert answer.status_code == 400
    assert decided(answer) == {"status": "400", "outcome": "invalid_value", "key": key.id}


def test_a_caller_without_a_key_is_told_why_in_the_account_too(stack: Platform) -> None:
    with stack.http("sw_live_nonsense") as http:
        answer = http.post("/v1/chat/completions", json=chat("hi"))
    assert answer.status_code == 401
    assert decided(answer) == {"status": "401", "outcome": "invalid_api_key"}


def test_usage_is_asked_for_by_days_that_are_some(stack: Platform) -> None:
    with stack.http(ADMIN_KEY) as admin:
        for query in ({"from": "2020-01-01"}, {"from": "2026-01-02", "to": "2026-01-01"}, {"from": "yesterday"}):
            assert admin.get("/admin/usage", params=query).status_code == 400, query
        assert admin.get("/admin/usage", params={"from": "2020-01-01", "to": "2020-03-31"}).json()["data"] == []
    with stack.http() as http:
        assert http.get("/admin/usage").status_code == 403


def test_nothing_in_the_store_lives_for_ever_or_says_what_a_client_said(
    stack: Platform, limits_store: Valkey, prompt: str
) -> None:
    canary = "a-canary-of-the-client"
    key = limited_key(stack, limits={"tokens_per_minute": 60_000, "max_concurrency": 3, "budget_usd_per_day": 9.0})
    key.post(chat(f"{canary} {prompt}", max_tokens=5, user=canary))
    key.post(chat(prompt, max_tokens=5, model=canary))
    eventually(lambda: {row["model"] for row in key.usage()} == {"sim-small", "-"})
    with Redis.from_url(limits_store.url) as client:
        names = list(client.scan_iter())
        assert len(names) > 2
        for name in names:
            assert client.pttl(name) != -1, name
            fields: Any = client.hkeys(name) if client.type(name) == b"hash" else []
            assert canary.encode() not in b" ".join([name, *fields])
