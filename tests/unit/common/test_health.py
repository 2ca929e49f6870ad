from __future__ import annotations

from fastapi import FastAPI
from starlette.testclient import TestClient

from common.health import Health


class Store:
    def __init__(self) -> None:
        self.is_up = True
        self.was_asked = 0

    async def check(self) -> bool:
        self.was_asked += 1
        return self.is_up


def client_of(health: Health) -> TestClient:
    app = FastAPI()
    app.include_router(health.router())
    return TestClient(app)


def test_liveness_asks_no_dependency() -> None:
    store, health = Store(), Health()
    health.add_shared("store", store.check)
    health.draining = True
    client = client_of(health)
    for path in ("/health", "/livez"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert store.was_asked == 0


def test_a_replica_that_never_reached_its_store_is_not_ready() -> None:
    store, health = Store(), Health()
    store.is_up = False
    health.add_shared("store", store.check)
    answer = client_of(health).get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "checks": {"store": "failed"}})


def test_a_replica_that_reached_its_store_once_stays_ready_without_it() -> None:
    store, health = Store(), Health()
    health.add_shared("store", store.check)
    client = client_of(health)
    assert client.get("/readyz").json() == {"status": "ok", "checks": {"store": "ok"}}
    store.is_up = False
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": {"store": "degraded"}})


def test_draining_ends_readiness_although_every_check_passes() -> None:
    store, health = Store(), Health()
    health.add_shared("store", store.check)
    health.draining = True
    answer = client_of(health).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"draining": "failed", "store": "ok"}


def test_a_service_without_checks_is_ready() -> None:
    assert client_of(Health()).get("/readyz").json() == {"status": "ok", "checks": {}}


def test_a_prober_may_ask_by_head() -> None:
    store, health = Store(), Health()
    health.add_shared("store", store.check)
    client = client_of(health)
    assert [client.head(path).status_code for path in ("/health", "/livez", "/readyz")] == [200, 200, 200]
    health.draining = True
    assert client.head("/readyz").status_code == 503
