"""What is recorded of a request, and that nobody from outside can make a series of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient

from common.errors import Overloaded
from common.health import Health
from common.overload.shedder import Shedder
from common.service import frame
from support.instruments import Instruments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DURATION = "http.server.request.duration"
ATTRIBUTES = ("http.request.method", "http.route", "http.response.status_code", "error.type")


def serve(instruments: Instruments, shedder: Shedder | None = None) -> TestClient:
    router = APIRouter()

    @router.get("/things/{name}")
    async def thing(name: str) -> dict[str, str]:
        return {"name": name}

    @router.get("/busy")
    async def busy() -> None:
        raise Overloaded("Later.")

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("nobody foresaw this")

    @router.get("/counted")
    async def counted() -> dict[str, float]:
        return {"active": instruments.values("http.server.active_requests")[()]}

    app = frame(
        "test",
        lifespan=_nothing,
        health=Health(),
        routers=[router],
        tracer_provider=None,
        meter=instruments.meter,
        shedder=shedder,
    )
    return TestClient(app)


@contextlib.asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def test_a_request_is_one_record_with_its_route_and_status() -> None:
    instruments = Instruments()
    with serve(instruments) as client:
        client.get("/things/one")
        client.get("/things/two")
        client.get("/busy")
        client.get("/broken")

    assert instruments.values(DURATION, *ATTRIBUTES) == {
        ("GET", "/things/{name}", 200, None): 2,
        ("GET", "/busy", 503, "503"): 1,
        ("GET", "/broken", 500, "500"): 1,
    }


def test_its_buckets_reach_from_a_cache_hit_to_a_long_answer() -> None:
    instruments = Instruments()
    with serve(instruments) as client:
        client.get("/things/one")

    [point] = instruments.points(DURATION)
    assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.005, 600)


def test_a_request_under_way_is_active_and_no_more_after_it() -> None:
    instruments = Instruments()
    with serve(instruments) as client:
        assert client.get("/counted").json() == {"active": 1}
    assert instruments.values("http.server.active_requests") == {(): 0}


def test_health_is_no_traffic() -> None:
    instruments = Instruments()
    with serve(instruments) as client:
        client.get("/livez")
    assert instruments.points(DURATION) == []


def test_hundreds_of_made_up_paths_and_methods_are_two_series() -> None:
    instruments = Instruments()
    with serve(instruments) as client:
        for number in range(300):
            client.get(f"/made-up-{number}")
            client.request(f"MADEUP{number}", f"/made-up-{number}")
            client.get(f"/things/made-up-{number}")

    assert instruments.values(DURATION, *ATTRIBUTES) == {
        ("GET", None, 404, None): 300,
        ("_OTHER", None, 404, None): 300,
        ("GET", "/things/{name}", 200, None): 300,
    }


def test_a_request_refused_at_the_door_is_counted_with_its_reason() -> None:
    instruments = Instruments()
    with serve(instruments, Shedder(max_requests=0)) as client:
        assert client.get("/things/one").status_code == 503

    assert instruments.values(DURATION, *ATTRIBUTES) == {("GET", None, 503, "503"): 1}
    shed = instruments.values("spillway.shed", "reason")
    assert shed["requests",] == 1
    assert sum(shed.values()) == 1
    assert set(shed) == {("turn",), ("lag",), ("memory",), ("bodies",), ("requests",)}, "a rate needs the zero before"


def test_every_process_shows_its_memory_its_processor_time_and_its_lag() -> None:
    instruments = Instruments()
    with serve(instruments):
        assert instruments.values("spillway.memory.usage")[()] > 1_000_000
        assert instruments.values("process.cpu.time")[()] > 0
        assert instruments.values("spillway.event_loop.lag")[()] >= 0
