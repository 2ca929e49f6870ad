"""Administration over real sockets: keys, tenants, the trail, and what they do to the callers of models."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from support.platform import ADMIN_KEY, Platform, chat, eventually, platform
from support.replicas import replicas
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx2

NOTED_WITHIN_S = 30
"""A round is 5 s; on a busy machine one may find the store too slow and leave it to the next."""
USERS = 4
REVOKED_WITHIN_S = 11
"""10 s, and a request's way there and back on a busy machine."""

NO_LIMITS = {
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "max_concurrency": None,
    "budget_usd_per_day": None,
    "budget_usd_per_month": None,
    "mode": "enforce",
}


@pytest.fixture
def admin(stack: Platform) -> Iterator[httpx2.Client]:
    with stack.http(ADMIN_KEY) as client:
        yield client


def make(admin: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = admin.post("/admin/keys", json={"tenant": "dave", "name": "laptop"} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def status_of(stack: Platform, key: str) -> int:
    with stack.http(key) as http:
        return http.get("/v1/models").status_code


def test_a_key_has_what_it_was_made_with(stack: Platform, admin: httpx2.Client) -> None:
    limits = {"requests_per_minute": 600, "tokens_per_minute": 10**6, "max_concurrency": 5, "budget_usd_per_day": 2.5}
    made = make(
        admin,
        limits=limits | {"budget_usd_per_month": 40, "mode": "shadow"},
        model_limits={"sim-small": {"requests_per_minute": 5}},
        models=["sim-small"],
        cache="deterministic",
        priority="batch",
        trusted_trace=True,
        capture_content=True,
        expires_at="2099-01-01T00:00:00+00:00",
    )
    assert list(made)[:2] == ["id", "key"]
    assert made["limits"] == NO_LIMITS | limits | {"budget_usd_per_month": 40.0, "mode": "shadow"}
    assert made["model_limits"] == {"sim-small": NO_LIMITS | {"requests_per_minute": 5}}
    assert (made["trusted_trace"], made["capture_content"]) == (True, True)
    assert (made["models"], made["cache"], made["priority"]) == (["sim-small"], "deterministic", "batch")
    assert (made["expires_at"], made["enabled"], made["last_used_at"]) == (4070908800.0, True, None)
    with stack.http(made["key"]) as daves:
        assert [model["id"] for model in daves.get("/v1/models").json()["data"]] == ["sim-small"]
        other = daves.post("/v1/chat/completions", json=chat("hi", model="sim-large"))
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


def test_a_change_is_a_merge_patch(admin: httpx2.Client) -> None:
    made = make(
        admin,
        limits={"requests_per_minute": 5, "max_concurrency": 2},
        model_limits={"a": {"max_concurrency": 1}, "b": {"max_concurrency": 1}},
        models=["a"],
    )
    url = f"/admin/keys/{made['id']}"
    changed = admin.patch(
        url,
        json={
            "limits": {"requests_per_minute": None, "tokens_per_minute": 7},
            "model_limits": {"a": None, "b": {"tokens_per_minute": 9}},
            "models": None,
        },
    ).json()
    assert changed["limits"] == NO_LIMITS | {"tokens_per_minute": 7, "max_concurrency": 2}
    assert changed["model_limits"] == {"b": NO_LIMITS | {"max_concurrency": 1, "tokens_per_minute": 9}}
    assert changed["models"] is None
    assert admin.patch(url, json={"limits": None}).json()["limits"] == NO_LIMITS
    assert admin.patch(url, json={}).json() == admin.get(url).json()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"surprise": 1}, "surprise"),
        ({"tenant": "a b"}, "tenant"),
        ({"name": ""}, "name"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_minute": 1.5}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_minute": 10**10}}, "limits.requests_per_minute"),
        ({"limits": {"budget_usd_per_day": -1}}, "limits.budget_usd_per_day"),
        ({"limits": {"mode": "observe"}}, "limits.mode"),
        ({"limits": {"rpm": 1}}, "limits"),
        ({"model_limits": {"a": {"max_concurrency": 0}}}, "model_limits.max_concurrency"),
        ({"models": [""]}, "models[0]"),
        ({"models": ["m"] * 101}, "models"),
        ({"cache": "some"}, "cache"),
        ({"priority": "urgent"}, "priority"),
        ({"expires_at": -1}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": 10**12}, "expires_at"),
        ({"enabled": "yes"}, "enabled"),
    ],
)
def test_a_bad_field_of_a_key_is_refused_by_its_name(admin: httpx2.Client, change: dict[str, Any], param: str) -> None:
    answer = admin.post("/admin/keys", json={"tenant": "dave", "name": "laptop"} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_rotated_key_works_at_once_and_the_old_one_until_its_grace_ends(
    stack: Platform, admin: httpx2.Client
) -> None:
    made = make(admin)
    assert status_of(stack, made["key"]) == 200
    url = f"/admin/keys/{made['id']}/rotate"
    rotated = admin.post(url, json={"grace_s": 3600}).json()
    assert (rotated["id"], rotated["key"] == made["key"]) == (made["id"], False)
    assert [status_of(stack, key) for key in (made["key"], rotated["key"])] == [200, 200]
    again = admin.post(url, json={"grace_s": 0}).json()
    assert [status_of(stack, key) for key in (made["key"], rotated["key"], again["key"])] == [401, 401, 200]
    assert admin.post(url, json={"grace_s": -1}).json()["error"]["param"] == "grace_s"
    assert admin.post(f"/admin/keys/{'0' * 16}/rotate", json={}).status_code == 404


def test_a_disabled_tenants_keys_are_refused(stack: Platform, admin: httpx2.Client) -> None:
    made = make(admin, tenant="erin")
    assert status_of(stack, made["key"]) == 200
    tenant = admin.put("/admin/tenants/erin", json={"enabled": False, "limits": {"max_concurrency": 3}})
    assert tenant.json() == {
        "tenant": "erin",
        "enabled": False,
        "limits": NO_LIMITS | {"max_concurrency": 3},
        "model_limits": {},
        "is_declared": False,
    }
    assert status_of(stack, made["key"]) == 401
    assert admin.get("/admin/tenants/erin").json() == tenant.json()
    assert tenant.json() in admin.get("/admin/tenants").json()["data"]
    assert admin.delete("/admin/tenants/erin").json()["error"]["code"] == "tenant_has_keys"
    admin.put("/admin/tenants/erin", json={})
    assert status_of(stack, made["key"]) == 200
    assert admin.delete(f"/admin/keys/{made['id']}").status_code == 204
    assert admin.delete("/admin/tenants/erin").status_code == 204
    assert admin.get("/admin/tenants/erin").status_code == 404


def test_a_change_of_a_tenant_is_a_merge_patch_that_needs_no_record(admin: httpx2.Client) -> None:
    url = "/admin/tenants/ursula"

    def changed(change: dict[str, Any]) -> dict[str, Any]:
        answer = admin.patch(url, json=change)
        assert answer.status_code == 200, answer.text
        assert answer.json() == admin.get(url).json()
        found: dict[str, Any] = answer.json()
        return found

    made = changed({"limits": {"requests_per_minute": 5}, "enabled": False})
    assert (made["enabled"], made["limits"]) == (False, NO_LIMITS | {"requests_per_minute": 5})
    more = changed({"limits": {"max_concurrency": 2}, "model_limits": {"a": {"max_concurrency": 1}}})
    assert (more["enabled"], more["limits"]) == (False, NO_LIMITS | {"requests_per_minute": 5, "max_concurrency": 2})
    less = changed({"limits": {"requests_per_minute": None}, "model_limits": {"a": None}, "enabled": True})
    assert (less["enabled"], less["limits"], less["model_limits"]) == (True, NO_LIMITS | {"max_concurrency": 2}, {})
    (entry,) = admin.get("/admin/audit?limit=1").json()["data"]
    assert (entry["action"], entry["subject"]) == ("tenant.change", "ursula")
    assert entry["after"].keys() == {"enabled", "limits", "model_limits"}
    assert admin.patch(url, json={"tenant": "other"}).json()["error"]["param"] == "tenant"
    assert admin.put(url, json={}).json()["limits"] == NO_LIMITS


def test_the_trail_says_who_did_what_in_which_request(admin: httpx2.Client) -> None:
    answer = admin.post("/admin/keys", json={"tenant": "dave", "name": "laptop"})
    (entry,) = admin.get("/admin/audit?limit=1").json()["data"]
    assert entry["action"] == "key.create"
    assert entry["subject"] == answer.json()["id"]
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["by"].startswith("admin:")
    assert ADMIN_KEY not in str(entry)
    assert answer.json()["key"] not in str(entry)


def test_keys_are_listed_by_tenant_and_page(admin: httpx2.Client) -> None:
    made = sorted(make(admin, tenant="frank")["id"] for _ in range(3))
    first = admin.get("/admin/keys?tenant=frank&limit=2").json()
    rest = admin.get(f"/admin/keys?tenant=frank&limit=2&after={first['next_after']}").json()
    assert [key["id"] for key in first["data"] + rest["data"]] == made
    assert rest["next_after"] is None
    for query in ("limit=0", "limit=1001", "after=x", "tenant=a%20b"):
        assert admin.get(f"/admin/keys?{query}").status_code == 400


def test_the_use_of_a_key_is_noted_behind_the_requests(stack: Platform, admin: httpx2.Client) -> None:
    made = make(admin)
    status_of(stack, made["key"])
    assert eventually(lambda: admin.get(f"/admin/keys/{made['id']}").json()["last_used_at"], NOTED_WITHIN_S)


def test_a_network_that_shows_bad_keys_is_told_to_wait(state_store: Valkey, cache_store: Valkey) -> None:
    guarded = {"failed_logins_per_minute": 20}
    with platform(state_store.url, cache_store.url, of_gateway=guarded) as started:
        with started.http("sw_live_nonsense") as stranger:
            statuses = [stranger.get("/v1/models").status_code for _ in range(25)]
            refused = stranger.get("/admin/keys")
        assert statuses[:20] == [401] * 20
        assert set(statuses[20:]) == {429}
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        assert status_of(started, ADMIN_KEY) == 429, "no API key, so it counts too"
        with started.http(ADMIN_KEY) as admin:
            assert admin.get("/admin/keys").status_code == 200


def test_what_only_looks_like_a_workers_token_counts_as_a_failed_login(
    state_store: Valkey, cache_store: Valkey
) -> None:
    with (
        platform(state_store.url, cache_store.url, of_gateway={"failed_logins_per_minute": 20}) as started,
        started.http("eyJhbGciOiJIUzI1NiJ9.e30.made-up") as stranger,
    ):
        statuses = [stranger.get("/v1/models").status_code for _ in range(25)]
    assert statuses[:20] == [401] * 20
    assert set(statuses[20:]) == {429}


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_key_that_this_replica_never_met_works_while_the_state_store_is_away(
    tmp_path: Path, cache_store: Valkey, fault: str
) -> None:
    with (
        valkey("state", tmp_path) as own,
        platform(own.url, cache_store.url) as started,
        started.http(ADMIN_KEY) as admin,
    ):
        made = make(admin)
        # Not at once: a store that has just come up may miss its 200 ms on a busy machine, and then rests a moment.
        assert eventually(lambda: status_of(started, made["key"]) == 200)
        assert eventually(lambda: admin.get(f"/admin/keys/{made['id']}").json()["last_used_at"], NOTED_WITHIN_S)
        unused = make(admin)
        with replicas(started, 1) as (other,):
            (own.freeze if fault == "freeze" else own.kill)()
            with started.http(made["key"]) as http:
                answer = http.post(f"{other.url}/v1/chat/completions", json=chat("hello"))
                assert answer.status_code == 200, answer.text
            with started.http(unused["key"]) as http:
                assert http.get(f"{other.url}/v1/models").status_code == 503


@pytest.mark.chaos
def test_a_revocation_reaches_the_other_replicas_by_itself_while_the_key_is_used_all_the_time(
    stack: Platform, admin: httpx2.Client
) -> None:
    made = make(admin)
    with replicas(stack, 1) as (other,), stack.http(made["key"]) as http, ThreadPoolExecutor(USERS) as users:

        def is_refused() -> bool:
            return http.get(f"{other.url}/v1/models").status_code == 401

        assert not is_refused()
        admin.patch(f"/admin/keys/{made['id']}", json={"enabled": False})
        deadline = time.monotonic() + REVOKED_WITHIN_S

        def use() -> None:
            while not is_refused():
                assert time.monotonic() < deadline
                time.sleep(0.02)  # a poll of another process, bounded

        for using in [users.submit(use) for _ in range(USERS)]:
            using.result()
        assert is_refused()
