from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from common.telemetry.client_spans import ClientSpans
from common.telemetry.server_spans import ServerSpans
from support.spans import CALLER, SAMPLED, SPAN, UNSAMPLED, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send


async def serve(seen: Seen, headers: dict[str, str] | None = None, status: int = 200, path: str = "/v1/jobs/1") -> str:
    """Serve one request; return the trace id that the application saw."""
    told = ""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # ASGI's shape
        nonlocal told
        told = f"{trace.get_current_span().get_span_context().trace_id:032x}"
        scope["route"] = type("Route", (), {"path": "/v1/jobs/{job_id}"})()
        scope["state"] = {"status": status}
        if status == 0:
            raise RuntimeError("a message that may quote a prompt")

    scope = {
        "type": "http", "method": "GET", "path": path, "scheme": "http", "http_version": "1.1", "server": ("h", 80),
        "query_string": b"key=secret",
        "headers": [(name.encode(), value.encode()) for name, value in {"user-agent": "me", **(headers or {})}.items()],
    }  # fmt: skip
    await ServerSpans(app, provider=seen.provider)(scope, _nothing, _nothing)  # type: ignore[arg-type]
    return told


async def _nothing(*_: object) -> None: ...


async def test_a_hop_goes_on_with_its_callers_trace() -> None:
    seen = Seen()
    assert await serve(seen, SAMPLED) == CALLER
    assert seen.span.parent is not None
    assert f"{seen.span.parent.span_id:016x}" == SPAN
    assert seen.span.links == ()


async def test_an_unsampled_callers_trace_goes_on_unrecorded() -> None:
    seen = Seen(ParentBased(ALWAYS_OFF))
    assert await serve(seen, UNSAMPLED) == CALLER
    assert seen.spans == []


async def test_a_sampler_that_heeds_no_caller_is_asked() -> None:
    seen = Seen(ALWAYS_ON)
    assert await serve(seen, UNSAMPLED) == CALLER
    assert seen.span.context.trace_flags.sampled


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{CALLER}-{SPAN}-01"])
async def test_a_malformed_trace_is_none(traceparent: str) -> None:
    seen = Seen()
    await serve(seen, {"traceparent": traceparent})
    assert (seen.span.parent, seen.span.links) == (None, ())


async def test_it_says_what_http_says_and_nothing_that_the_caller_made_up() -> None:
    seen = Seen()
    await serve(seen, status=404, path="/v1/jobs/" + "x" * 1_000)
    assert (seen.span.name, seen.span.kind, seen.span.status.status_code) == (
        "GET /v1/jobs/{job_id}", SpanKind.SERVER, StatusCode.UNSET,
    )  # fmt: skip
    shown = dict(seen.span.attributes or {})
    assert len(str(shown.pop("url.path"))) == 256
    assert shown == {
        "http.request.method": "GET", "http.route": "/v1/jobs/{job_id}", "http.response.status_code": 404,
        "url.scheme": "http", "server.address": "h", "server.port": 80, "network.protocol.version": "1.1",
    }  # fmt: skip


@pytest.mark.parametrize("status", [500, 503])
async def test_only_a_fault_of_ours_is_an_error(status: int) -> None:
    seen = Seen()
    await serve(seen, status=status)
    assert (seen.span.status.status_code, (seen.span.attributes or {})["error.type"]) == (StatusCode.ERROR, str(status))


async def test_an_exception_passes_and_none_of_its_words_stay() -> None:
    seen = Seen()
    with pytest.raises(RuntimeError):
        await serve(seen, status=0)
    assert "quote" not in str(seen.span.to_json())
    assert trace.get_current_span().get_span_context().is_valid is False


async def test_health_has_no_spans() -> None:
    seen = Seen()
    await serve(seen, path="/readyz")
    assert seen.spans == []


async def call(seen: Seen, answer: Callable[[httpx2.Request], httpx2.Response], **within: Any) -> httpx2.Request:
    """Make a call within a span of `seen`; return it as the next hop got it."""
    got: list[httpx2.Request] = []

    def hear(request: httpx2.Request) -> httpx2.Response:
        got.append(request)
        return answer(request)

    client = httpx2.AsyncClient(transport=ClientSpans(httpx2.MockTransport(hear), seen.provider))
    async with client:
        if within.get("traced", True):
            with seen.provider.get_tracer("test").start_as_current_span("request"):
                await client.post("http://next:81/v1/entries?secret=1", content=b"x")
        else:
            await client.post("http://next:81/v1/entries?secret=1", content=b"x")
    return got[0]


async def test_a_call_is_a_span_whose_id_the_next_hop_gets() -> None:
    seen = Seen()
    request = await call(seen, lambda _: httpx2.Response(200))
    span = seen.spans[0]
    context = span.get_span_context()
    assert context is not None
    assert request.headers["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert (span.name, span.kind, dict(span.attributes or {})) == (
        "POST",
        SpanKind.CLIENT,
        {
            "http.request.method": "POST", "url.full": "http://next:81/v1/entries", "server.address": "next",
            "server.port": 81, "http.response.status_code": 200,
        },
    )  # fmt: skip


async def test_a_call_that_is_refused_or_fails_is_an_error() -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("the words of somebody else")

    for answer, why in ((lambda _: httpx2.Response(404), "404"), (fail, "ConnectError")):
        seen = Seen()
        try:
            await call(seen, answer)
        except httpx2.ConnectError:
            assert why == "ConnectError"
        span = seen.spans[0]
        assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, why)
        assert "words" not in str(span.to_json())


async def test_outside_of_a_sampled_trace_a_call_is_no_span_but_passes_the_trace_on() -> None:
    seen = Seen(ParentBased(ALWAYS_OFF))
    request = await call(seen, lambda _: httpx2.Response(200))
    assert request.headers["traceparent"].endswith(("-00", "-02"))
    assert "traceparent" not in (await call(seen, lambda _: httpx2.Response(200), traced=False)).headers
    assert seen.spans == []


async def test_a_call_that_outlives_its_request_still_belongs_to_its_trace() -> None:
    seen = Seen()
    client = httpx2.AsyncClient(
        transport=ClientSpans(httpx2.MockTransport(lambda _: httpx2.Response(200)), seen.provider)
    )
    request = seen.provider.get_tracer("test").start_span("request")
    request.end()
    async with client:
        with trace.use_span(request):
            await client.put("http://next:81/v1/entries")
    assert [span.name for span in seen.spans] == ["request", "PUT"]
