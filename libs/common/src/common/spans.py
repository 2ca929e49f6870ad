"""Spans of ours within a request: none outside of a sampled trace, and no message of an exception in any of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from common import conventions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class Spans:
    """Without a provider, or in a trace that is not sampled, they cost next to nothing."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = None if provider is None else provider.get_tracer("spillway")

    def around(
        self, name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, str] | None = None
    ) -> AbstractContextManager[None]:
        """A span as long as the body takes. What fails there is an error by the name of its exception."""
        if self._tracer is None or not trace.get_current_span().is_recording():
            return _NOTHING
        return _around(self._tracer, name, kind, attributes)


class StoreSpans(Spans):
    """Of the store with that name (`state`, `limits`, `cache`): one for each logical operation."""

    def __init__(self, store: str, provider: TracerProvider | None = None) -> None:
        super().__init__(provider)
        self._store = store

    def operation(self, name: str) -> AbstractContextManager[None]:
        """Around the operation, whatever the number of its commands."""
        if self._tracer is None:
            return _NOTHING
        attributes = {conventions.DB_SYSTEM: "redis", conventions.DB_OPERATION: name, conventions.STORE: self._store}
        named = conventions.STORE_OPERATION.format(operation=name, store=self._store)
        return self.around(named, SpanKind.CLIENT, attributes)


UNTRACED = StoreSpans("")


@contextlib.contextmanager
def _around(tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, str] | None) -> Iterator[None]:
    span = tracer.start_span(name, kind=kind, attributes=attributes)
    try:
        yield
    except asyncio.CancelledError:  # the caller left: no error
        span.set_attribute(conventions.ERROR_TYPE, conventions.CANCELLED)
        raise
    except Exception as error:
        span.set_attribute(conventions.ERROR_TYPE, type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()
