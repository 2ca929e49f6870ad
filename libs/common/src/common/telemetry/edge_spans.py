"""The edge's server spans, by OpenTelemetry's instrumentation of FastAPI. Who calls is a stranger there: each request
begins a trace of its own, to which the caller's is a link, unless the caller is trusted with more.

Contrib ends its span with the answer's last byte, when what is known only at a request's end (the decision record) is
still to come. So it sees an answer's head alone: `Door` keeps the way around it, which `RequestScope` takes for
bodies, and the span ends with the request. That also spares each chunk its wrapper.

Whether a request is sampled is decided before contrib, which takes 0.26 ms to record a request and 0.03 to be told to
record nothing: `Door` draws the trace's id, asks the sampler, and leads what is not sampled past. What is sampled gets
that very id, so the sampler says the same again.
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
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

from common.health import PATHS as HEALTH_PATHS
from common.telemetry import conventions, trace_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import ASGIApp, Receive, Scope, Send

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

    provider.id_generator = DecidedIds()
    propagate.set_global_textmap(ToldPropagator())
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),  # see `common.telemetry.http_metrics`
        excluded_urls=",".join(f"{path}$" for path in HEALTH_PATHS),
        exclude_spans=["receive", "send"],
        server_request_hook=_enter,
    )
    traced, plain = app.build_middleware_stack, type(app).build_middleware_stack
    app.build_middleware_stack = lambda: Door(traced(), plain(app), provider, is_ours)  # type: ignore[method-assign]  # as contrib does


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
    """Keeps the server's own `send` in `scope["state"]["send"]`; sends what is sampled through `traced`, the rest not.

    `plain` is the same application without contrib around it.
    """

    def __init__(
        self, traced: ASGIApp, plain: ASGIApp, provider: TracerProvider, is_ours: Callable[[str], bool]
    ) -> None:
        self._traced = traced
        self._plain = plain
        self._sampler = provider.sampler
        self._follows = isinstance(provider.sampler, ParentBased)
        self._ids = provider.id_generator
        self._is_ours = is_ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._plain(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["send"] = send
        told = trace_context.told_by(scope)
        if told is not None and self._is_ours(trace_context.header(scope, b"authorization")):
            goes_on = not self._follows or told.trace_flags.sampled
            trace_id, state["parent"] = told.trace_id, trace_context.told_by(scope, with_state=True)
        else:
            trace_id, state["caller"] = self._ids.generate_trace_id(), told
            goes_on = self._is_sampled(trace_id, scope["method"])
            _decided.set(trace_id if goes_on else 0)
        if goes_on:
            await self._traced(scope, receive, send)
            return
        unrecorded = SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False)
        token = otel_context.attach(trace.set_span_in_context(NonRecordingSpan(unrecorded), _NOBODYS))
        try:
            await self._plain(scope, receive, send)
        finally:
            otel_context.detach(token)

    def _is_sampled(self, trace_id: int, method: str) -> bool:
        found = self._sampler.should_sample(_NOBODYS, trace_id, method, SpanKind.SERVER)
        return found.decision is Decision.RECORD_AND_SAMPLE


class ToldPropagator(TextMapPropagator):
    """Goes on with the trace that `Door` found. The carrier is the scope."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] | None = None) -> Context:  # noqa: ARG002  # OpenTelemetry's
        context = _NOBODYS if context is None else context
        parent = carrier["state"].get("parent")
        return context if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        """Nothing: see `trace_context`, which those use who call."""

    @property
    def fields(self) -> set[str]:
        return set()


def _enter(span: trace.Span, scope: dict[str, Any]) -> None:
    if not span.is_recording():
        return
    attributes = getattr(span, "attributes", None) or {}
    for name in _CALLERS_WORDS:
        if name in attributes:
            span.set_attribute(name, "")
    host, _ = scope.get("server") or ("", 0)
    # Contrib's address has the port in it as well.
    span.set_attributes({conventions.URL_PATH: scope["path"][:_LONGEST_PATH], conventions.SERVER_ADDRESS: host})
    caller = scope["state"].get("caller")
    if caller is not None:
        span.add_link(caller, {conventions.LINK: "caller"})
