"""Spans of ours within a request: none outside of a sampled trace, and no message of an exception in any of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind, Status, StatusCode

from common.telemetry import conventions, metrics
from common.telemetry.traces import is_sampled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from opentelemetry.metrics import Histogram, Meter
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
        if self._tracer is None or not is_sampled():
            return _NOTHING
        return _around(self._tracer, name, kind, attributes)


class StoreSpans(Spans):
    """Of the store with that name (`state`, `limits`, `cache`): a span and a duration for each logical operation."""

    def __init__(self, store: str, provider: TracerProvider | None = None, meter: Meter | None = None) -> None:
        super().__init__(provider)
        self._store = store
        self._durations: Histogram | None = None
        if meter is not None and not metrics.is_off(meter):
            self._durations = metrics.store_durations(meter)

    def operation(self, name: str) -> AbstractContextManager[None]:
        """Around the operation, whatever the number of its commands."""
        return self._measured(name, self._traced(name))

    def in_background(self, name: str) -> AbstractContextManager[None]:
        """Around one that belongs to no request, or of which a request has many: it is no span."""
        return self._measured(name, _NOTHING)

    def _measured(self, name: str, span: AbstractContextManager[None]) -> AbstractContextManager[None]:
        return span if self._durations is None else _Measured(self._durations, name, span)

    def _traced(self, name: str) -> AbstractContextManager[None]:
        if self._tracer is None or not is_sampled():  # before anything is put together
            return _NOTHING
        attributes = {conventions.DB_SYSTEM: "redis", conventions.DB_OPERATION: name, conventions.STORE: self._store}
        named = conventions.STORE_OPERATION.format(operation=name, store=self._store)
        return self.around(named, SpanKind.CLIENT, attributes)


UNTRACED = StoreSpans("")


class _Measured:
    """Records how long the body of `span` took. A caller who left says nothing of the store: that is no record."""

    __slots__ = ("_attributes", "_began", "_durations", "_span")

    def __init__(self, durations: Histogram, name: str, span: AbstractContextManager[None]) -> None:
        self._durations = durations
        self._attributes = {conventions.DB_SYSTEM: "redis", conventions.DB_OPERATION: name}
        self._span = span

    def __enter__(self) -> None:
        self._span.__enter__()
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            if error is not None:
                self._attributes[conventions.ERROR_TYPE] = type(error).__name__
            self._durations.record(time.perf_counter() - self._began, self._attributes)
        self._span.__exit__(kind, error, traceback)


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
