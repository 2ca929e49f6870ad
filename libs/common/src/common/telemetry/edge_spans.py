"""The edge's server spans, by OpenTelemetry's instrumentation of FastAPI. Who calls is a stranger there: each request
begins a trace of its own, to which the caller's is a link, unless the caller is trusted with more.

Contrib ends its span with the answer's last byte, when what is known only at a request's end (the decision record) is
still to come. So it sees an answer's head alone: `Door` keeps the way around it, which `RequestScope` takes for
bodies, and the span ends with the request. That also spares each chunk its wrapper.

Whether a request is sampled is decided before contrib, which takes 0.1 ms to record nothing: `Door` draws the trace's
id, asks the sampler, and leads what is not sampled past. What is sampled gets that very id, so the sampler says the
same again.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.health import PATHS as HEALTH_PATHS
from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastapi import FastAPI
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import ASGIApp, Receive, Scope, Send

_W3C = TraceContextTextMapPropagator()
_NOBODYS = otel_context.Context()
_QUIET = frozenset(HEALTH_PATHS)
_decided: ContextVar[int] = ContextVar("decided", default=0)
_STABILITY = "OTEL_SEMCONV_STABILITY_OPT_IN"
_LONGEST_PATH = 256
_CALLERS_WORDS = (conventions.URL_QUERY, conventions.USER_AGENT)
"""Attributes that repeat what a caller sent: people put keys into queries. Contrib sets them; none can be taken out."""


def instrument(app: FastAPI, provider: TracerProvider, *, is_ours: Callable[[str], bool]) -> None:
    """Give every request of `app` one span; it goes on with the trace of a caller whose `Authorization` `is_ours`."""
    ask_for_stable_names()
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415  # costs memory

    app.state.trusts_trace = is_ours
    provider.id_generator = DecidedIds()
    propagate.set_global_textmap(EdgePropagator())
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),  # see `common.telemetry.http_metrics`
        excluded_urls=",".join(f"{path}$" for path in HEALTH_PATHS),
        exclude_spans=["receive", "send"],
        server_request_hook=_enter,
    )
    build_traced = app.build_middleware_stack
    app.build_middleware_stack = lambda: Door(build_traced(), provider, is_ours)  # type: ignore[method-assign]  # as contrib does


def ask_for_stable_names() -> None:
    """Read once, at the first instrumentation. The old names would repeat queries and user agents under other words."""
    wanted = {name for name in os.environ.get(_STABILITY, "").split(",") if name and not name.startswith("http")}
    os.environ[_STABILITY] = ",".join(sorted({*wanted, "http"}))


class DecidedIds(RandomIdGenerator):
    """Random, but for a trace that was decided upon: its id is used for the next root of the same task."""

    def generate_trace_id(self) -> int:
        decided = _decided.get()
        if decided:
            _decided.set(0)
            return decided
        return super().generate_trace_id()


class Door:
    """Keeps the server's own `send` in `scope["state"]["send"]`, and leads what is not sampled past `traced`."""

    def __init__(self, traced: ASGIApp, provider: TracerProvider, is_ours: Callable[[str], bool]) -> None:
        from opentelemetry.instrumentation.utils import suppress_http_instrumentation  # noqa: PLC0415  # as above

        self._traced = traced
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._is_ours = is_ours
        self._suppressed = suppress_http_instrumentation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._traced(scope, receive, send)
            return
        scope.setdefault("state", {})["send"] = send
        if self._goes_on(scope["headers"]):
            await self._traced(scope, receive, send)
            return
        trace_id = self._ids.generate_trace_id()
        decision = self._sampler.should_sample(_NOBODYS, trace_id, scope["method"], trace.SpanKind.SERVER).decision
        if decision is Decision.RECORD_AND_SAMPLE:
            _decided.set(trace_id)
            await self._traced(scope, receive, send)
            return
        unrecorded = trace.SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False)
        token = otel_context.attach(trace.set_span_in_context(trace.NonRecordingSpan(unrecorded), _NOBODYS))
        try:
            with self._suppressed():
                await self._traced(scope, receive, send)
        finally:
            otel_context.detach(token)

    def _goes_on(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the trace is the caller's, who has decided."""
        traceparent = authorization = b""
        for name, value in headers:
            if name == b"traceparent":
                traceparent = value
            elif name == b"authorization":
                authorization = value
        return bool(traceparent) and self._is_ours(authorization.decode("latin-1"))


class EdgePropagator(TextMapPropagator):
    """Reads a `traceparent` only for callers whom the application trusts with their trace. The carrier is the scope."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] | None = None) -> Context:
        context = _NOBODYS if context is None else context
        if getter is None or not getter.get(carrier, "traceparent"):
            return context
        authorization = getter.get(carrier, "authorization") or [""]
        trusts_trace = carrier["app"].state.trusts_trace
        return _W3C.extract(carrier, context, getter) if trusts_trace(authorization[0]) else context

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        _W3C.inject(carrier, context, *([setter] if setter else []))

    @property
    def fields(self) -> set[str]:
        return _W3C.fields


def _enter(span: trace.Span, scope: dict[str, Any]) -> None:
    if not span.is_recording():
        return
    attributes = getattr(span, "attributes", None) or {}
    for name in _CALLERS_WORDS:
        if name in attributes:
            span.set_attribute(name, "")
    span.set_attribute(conventions.URL_PATH, scope["path"][:_LONGEST_PATH])
    traceparent = next((str(value, "latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")
    if traceparent and getattr(span, "parent", None) is None:
        caller = trace.get_current_span(_W3C.extract({"traceparent": traceparent}, _NOBODYS)).get_span_context()
        if caller.is_valid:
            span.add_link(caller, {conventions.LINK: "caller"})
