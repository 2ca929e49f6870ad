from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi import APIRouter, Request
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from common.errors import Overloaded
from common.health import Health
from common.service import frame
from common.telemetry.edge_spans import ask_for_stable_names
from support.spans import CALLER, SAMPLED, SPAN, UNSAMPLED, Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

router = APIRouter()


@router.get("/v1/things/{name}")
async def thing(request: Request, name: str) -> str:
    async def finish() -> None:
        trace.get_current_span().set_attribute("spillway.decision.status", 200)

    request.scope["state"]["ending"].push_async_callback(finish)
    if name == "full":
        raise Overloaded("Too much.")
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


@contextlib.asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[Any]:
    yield {}


async def ask(seen: Seen, path: str = "/v1/things/a?key=secret", **headers: str) -> httpx2.Response:
    app = frame(
        "edge", lifespan=_lifespan, health=Health(), routers=[router], tracer_provider=seen.provider, edge=True,
        is_ours=lambda shown: shown == "Bearer ours",
    )  # fmt: skip
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://edge") as client:
        return await client.get(path, headers={"user-agent": "a canary"} | headers)


def link_ids(seen: Seen) -> list[str]:
    return [f"{link.context.trace_id:032x}" for link in seen.span.links]


async def test_the_edge_starts_a_trace_and_links_the_callers() -> None:
    seen = Seen()
    answer = await ask(seen, **SAMPLED)
    assert answer.json() == answer.headers["x-trace-id"] != CALLER
    assert (seen.span.parent, link_ids(seen)) == (None, [CALLER])


@pytest.mark.parametrize(("authorization", "is_parent"), [("Bearer ours", True), ("Bearer theirs", False), ("", False)])
async def test_it_goes_on_with_the_trace_of_those_it_trusts(authorization: str, is_parent: bool) -> None:
    seen = Seen()
    answer = await ask(seen, authorization=authorization, **SAMPLED)
    assert (answer.json() == CALLER, link_ids(seen) == []) == (is_parent, is_parent)


async def test_the_state_of_a_trace_goes_on_with_it() -> None:
    seen = Seen()
    await ask(seen, authorization="Bearer ours", tracestate="vendor=1", **SAMPLED)
    assert seen.span.context.trace_state.to_header() == "vendor=1"


async def test_the_unsampled_trace_of_those_it_trusts_goes_on_unrecorded() -> None:
    seen = Seen()
    answer = await ask(seen, authorization="Bearer ours", **UNSAMPLED)
    assert answer.json() == answer.headers["x-trace-id"] == CALLER
    assert seen.spans == []


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{CALLER}-{SPAN}-01"])
async def test_a_malformed_trace_is_none(traceparent: str) -> None:
    seen = Seen()
    await ask(seen, traceparent=traceparent)
    assert (seen.span.parent, seen.span.links) == (None, ())


async def test_the_span_ends_with_the_request_and_not_with_its_last_byte() -> None:
    seen = Seen()
    await ask(seen)
    assert (seen.span.attributes or {})["spillway.decision.status"] == 200


async def test_it_says_what_http_says_and_nothing_that_the_caller_made_up() -> None:
    seen = Seen()
    answer = await ask(seen)
    assert (seen.span.name, seen.span.kind) == ("GET /v1/things/{name}", SpanKind.SERVER)
    shown = dict(seen.span.attributes or {})
    assert "secret" not in str(shown)
    assert "canary" not in str(shown)
    assert shown == {
        "http.request.method": "GET", "http.route": "/v1/things/{name}", "http.response.status_code": 200,
        "url.scheme": "http", "url.path": "/v1/things/a", "network.protocol.version": "1.1",
        "server.address": "edge", "client.address": "127.0.0.1", "client.port": 123,
        "url.query": "", "user_agent.original": "",
        "spillway.request.id": answer.headers["x-request-id"], "spillway.decision.status": 200,
    }  # fmt: skip


async def test_a_fault_of_ours_is_an_error() -> None:
    seen = Seen()
    await ask(seen, "/v1/things/full")
    assert (seen.span.status.status_code, (seen.span.attributes or {})["error.type"]) == (StatusCode.ERROR, "503")


async def test_what_is_not_sampled_names_its_trace_all_the_same() -> None:
    seen = Seen(ALWAYS_OFF)
    answer = await ask(seen)
    assert answer.json() == answer.headers["x-trace-id"]
    assert seen.spans == []


async def test_health_has_no_spans() -> None:
    seen = Seen()
    await ask(seen, "/livez")
    assert seen.spans == []


@pytest.mark.parametrize(
    ("given", "asked"),
    [("", "http"), ("gen_ai_latest_experimental", "gen_ai_latest_experimental,http"), ("http/dup", "http")],
)
def test_the_names_are_the_stable_ones_whatever_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: str, asked: str
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", given)
    ask_for_stable_names()
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == asked


async def test_a_long_path_is_cut() -> None:
    seen = Seen()
    await ask(seen, "/v1/things/" + "x" * 5_000)
    assert len(str((seen.span.attributes or {})["url.path"])) == 256


async def test_a_share_is_that_share() -> None:
    seen = Seen(ParentBased(TraceIdRatioBased(0.5)))
    for _ in range(200):
        await ask(seen)
    assert 60 < len(seen.spans) < 140  # a second decision by another id would leave a quarter


async def test_what_the_edge_does_not_sample_is_recorded_nowhere_whatever_its_caller_says() -> None:
    seen = Seen(ParentBased(ALWAYS_OFF))
    answer = await ask(seen, **SAMPLED)
    assert answer.json() == answer.headers["x-trace-id"] != CALLER
    assert seen.spans == []
