"""What the gateway says in a request's trace beside what it decided: whose call it was that answered."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import Any

    from opentelemetry.context import Context

_W3C = TraceContextTextMapPropagator()


@contextlib.contextmanager
def within(context: Context | None) -> Iterator[None]:
    """What happens in the body belongs to that trace."""
    if context is None:
        yield
        return
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


def traceparent() -> str:
    """Of the current span; empty when nothing is traced."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent", "")


def link_to_leader(leader: str, log: MutableMapping[str, Any]) -> None:
    """Say in the current request's trace and log line that another's call answered it, by that one's `traceparent`."""
    context = _W3C.extract({"traceparent": leader}, otel_context.Context())
    theirs = trace.get_current_span(context).get_span_context()
    ours = trace.get_current_span()
    if not theirs.is_valid or theirs.trace_id == ours.get_span_context().trace_id:
        return
    log["coalesced_with"] = f"{theirs.trace_id:032x}"
    ours.add_link(theirs, {conventions.LINK: "leader"})
