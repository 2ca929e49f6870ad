"""What the gateway says in a request's trace beside what it decided: whose call it was that answered."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace

from common.telemetry import conventions, trace_context

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import Any

    from opentelemetry.context import Context


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


def link_to_leader(leader: str, log: MutableMapping[str, Any]) -> None:
    """Say in the current request's trace and log line that another's call answered it, by that one's `traceparent`."""
    theirs, ours = trace_context.parsed(leader), trace.get_current_span()
    if theirs is None or theirs.trace_id == ours.get_span_context().trace_id:
        return
    log["coalesced_with"] = f"{theirs.trace_id:032x}"
    ours.add_link(theirs, {conventions.LINK: "leader"})
