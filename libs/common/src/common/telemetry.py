"""Traces over OTLP/HTTP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, nothing at all otherwise.

The SDK's own variables (`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, …) mean what they always mean.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.propagators.textmap import DefaultGetter, TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common import conventions
from common.health import PATHS as HEALTH_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import ASGIApp, Receive, Scope, Send

_W3C = TraceContextTextMapPropagator()


class EdgePropagator(TextMapPropagator):
    """Writes `traceparent` for our own hops, reads none: at the edge a caller's trace is a link, never the parent.

    Unless the caller's `Authorization` is one of the platform's own, or of a key that is trusted with this.
    """

    def __init__(self, is_ours: Callable[[str], bool] | None = None) -> None:
        self._is_ours = is_ours

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] | None = None) -> Context:
        if self._is_ours is not None and getter is not None and getter.get(carrier, "traceparent"):
            authorization = getter.get(carrier, "authorization")
            if authorization and self._is_ours(authorization[0]):
                return _W3C.extract(carrier, context, getter)
        return context if context is not None else otel_context.get_current()

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        _W3C.inject(carrier, context, *([setter] if setter else []))

    @property
    def fields(self) -> set[str]:
        return _W3C.fields


def provider_from_environment(service: str) -> TracerProvider | None:
    """Build the exporting provider, or None when no endpoint is configured. Nothing is imported that is not used.

    The queue is bounded and drops when full: a collector that is gone, slow or silent costs callers nothing.
    """
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415  # costs memory

    from common.span_export import ExportingProvider  # noqa: PLC0415  # as above

    return ExportingProvider(Resource.create({SERVICE_NAME: service}))


def dropped_spans(provider: TracerProvider | None) -> int:
    """How many spans `provider` has lost; 0 for one that is not ours."""
    return getattr(provider, "dropped", 0)


def shut_down(provider: TracerProvider | None, timeout_s: float) -> None:
    """Let the last spans leave, for at most `timeout_s`: a silent collector never holds up the end of a process."""
    if provider is not None:
        leaving = threading.Thread(target=provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(timeout_s)


def instrument(
    app: FastAPI,
    provider: TracerProvider | None,
    *,
    edge: bool = False,
    is_ours: Callable[[str], bool] | None = None,
) -> None:
    """Give every request of `app` one server span, whatever its number of chunks. Without a provider: nothing.

    `edge` starts a new trace for each request and links it to the caller's, but goes on with that of a caller whose
    `Authorization` `is_ours`.
    """
    if provider is None:
        return
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # read once, at the first instrumentation
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415  # only when tracing
    from opentelemetry.sdk.trace.sampling import ParentBased  # noqa: PLC0415  # as above

    propagate.set_global_textmap(EdgePropagator(is_ours) if edge else _W3C)
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),  # see `common.http_metrics`
        excluded_urls=",".join(f"{path}$" for path in HEALTH_PATHS),
        exclude_spans=["receive", "send"],
        server_request_hook=_enter if edge else None,
    )
    if not edge and isinstance(provider.sampler, ParentBased):
        build_traced = app.build_middleware_stack
        app.build_middleware_stack = lambda: UnsampledPast(build_traced())  # type: ignore[method-assign]  # as contrib does


class UnsampledPast:
    """Lets a request that its caller did not sample past contrib's middleware, which takes 0.1 ms to record nothing.

    Its trace goes on all the same: ids in log lines and headers, "not sampled" to the next hop. Only for samplers that
    follow the parent.
    """

    def __init__(self, traced: ASGIApp) -> None:
        from opentelemetry.instrumentation.utils import suppress_http_instrumentation  # noqa: PLC0415  # only when tracing

        self._traced = traced
        self._suppressed = suppress_http_instrumentation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = _W3C.extract({"traceparent": _traceparent(scope)}, otel_context.Context())
        caller = trace.get_current_span(context).get_span_context()
        if not caller.is_valid or caller.trace_flags.sampled:
            await self._traced(scope, receive, send)
            return
        token = otel_context.attach(context)
        try:
            with self._suppressed():
                await self._traced(scope, receive, send)
        finally:
            otel_context.detach(token)


def _traceparent(scope: Scope) -> str:
    if scope["type"] == "http":
        for name, value in scope["headers"]:
            if name == b"traceparent":
                return str(value, "latin-1")
    return ""


_CALLERS_WORDS = (conventions.URL_QUERY, conventions.USER_AGENT)
"""Attributes that repeat what a caller sent: people put keys into queries. Contrib sets them; none can be taken out."""


def _enter(span: trace.Span, scope: dict[str, Any]) -> None:
    attributes = getattr(span, "attributes", None) or {}
    for name in _CALLERS_WORDS:
        if name in attributes:
            span.set_attribute(name, "")
    _link_to_caller(span, scope)


def _link_to_caller(span: trace.Span, scope: dict[str, Any]) -> None:
    if not span.is_recording():
        return
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    caller = trace.get_current_span(_W3C.extract(carrier, otel_context.Context(), DefaultGetter())).get_span_context()
    parent = getattr(span, "parent", None)
    if caller.is_valid and (parent is None or parent.span_id != caller.span_id):
        span.add_link(caller)


def note_error(code: str | None, *, is_broken: bool = False) -> None:
    """Say on the current span with which error of ours the request was answered; `is_broken`: after it had begun well.

    A 5xx is marked as failed by contrib; an answer that broke off has a status of 200, so that is done here.
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(conventions.ERROR_CODE, code or "")
        if is_broken:
            span.set_attribute(conventions.ERROR_TYPE, code or "")
            span.set_status(trace.Status(trace.StatusCode.ERROR))


def note_request(request_id: str) -> None:
    """Name the request on the current span."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(conventions.REQUEST_ID, request_id)


def trace_id() -> str | None:
    """The current trace's id in hex, or None when tracing is off."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
