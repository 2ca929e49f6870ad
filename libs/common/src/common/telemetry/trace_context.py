"""The `traceparent` that hops tell each other. Source: W3C Trace Context, level 2.

Ours because every hop of every request reads and writes it, sampled or not: OpenTelemetry's propagator takes thrice as
many calls to do so, for headers that are none of ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Scope

HEADER = "traceparent"
STATE_HEADER = "tracestate"
_FORM = re.compile(r"[ \t]*(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?[ \t]*")
_FIRST_VERSION = "00"
_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


def header(scope: Scope, wanted: bytes) -> str:
    """What a request says under that name, "" if nothing."""
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value, "latin-1")
    return ""


def parsed(traceparent: str, tracestate: Sequence[str] = ()) -> SpanContext | None:
    """The span that the caller is in, or None if it is malformed. Of a later version, what the first one knows."""
    found = _FORM.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, further = found.groups()
    if further is not None and version == _FIRST_VERSION:
        return None
    state = TraceState.from_header([*tracestate]) if tracestate else None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16) & _FLAGS), state)  # noqa: FBT003  # is remote; positional because it is hot
    return context if context.is_valid else None


def told_by(scope: Scope, *, with_state: bool = False) -> SpanContext | None:
    """The span that a request's caller says it is in."""
    traceparent = header(scope, b"traceparent")
    state = [header(scope, b"tracestate")] if with_state else []
    return parsed(traceparent, state) if traceparent else None


def traceparent() -> str:
    """Of the current span, sampled or not; empty outside of any trace."""
    context = trace.get_current_span().get_span_context()
    return of(context) if context.is_valid else ""


def of(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
