"""Spans arrive as the SDK would have sent them; those that are lost are counted, wherever they got lost."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler

from common.telemetry import span_export, traces
from common.telemetry.span_export import BATCH_SPANS, QUEUE_BYTES, QUEUE_SPANS, ExportingProvider

BOUND_S = 10
RESOURCE = Resource.create({"service.name": "gateway"})


class Sender:
    """Holds each payload until it is let go, and then says `result`, or raises it."""

    def __init__(self, result: bool | Exception = True, *, holds: bool = False) -> None:
        self._result = result
        self.payloads: list[bytes] = []
        self.is_asked = threading.Event()
        self.may_go_on = threading.Event()
        if not holds:
            self.may_go_on.set()

    def send(self, payload: bytes) -> bool:
        self.payloads.append(payload)
        self.is_asked.set()
        assert self.may_go_on.wait(BOUND_S)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def shutdown(self) -> None: ...


def make_spans(provider: ExportingProvider, count: int, **attributes: str) -> None:
    for _ in range(count):
        provider.get_tracer("test").start_span("one", attributes=attributes).end()


def test_what_arrives_is_what_the_sdk_would_have_sent() -> None:
    sender, theirs = Sender(), InMemorySpanExporter()
    provider = ExportingProvider(RESOURCE, sender)
    provider.add_span_processor(SimpleSpanProcessor(theirs))
    with provider.get_tracer("spillway", "1", "https://schema").start_as_current_span("request"):
        provider.get_tracer("inference").start_span("chat").end()
    provider.shutdown()
    (payload,) = sender.payloads
    assert _sorted(ExportTraceServiceRequest.FromString(payload)) == _sorted(encode_spans(theirs.get_finished_spans()))


def _sorted(request: ExportTraceServiceRequest) -> list[tuple[str, str]]:
    return sorted(
        (str(of_resource.resource), str(of_scope))
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
    )


def test_what_is_recorded_and_not_sampled_is_not_sent() -> None:
    sender = Sender()
    provider = ExportingProvider(RESOURCE, sender)
    provider.sampler = StaticSampler(Decision.RECORD_ONLY)
    make_spans(provider, 1)
    provider.shutdown()
    assert (sender.payloads, provider.dropped) == ([], 0)


def test_much_is_sent_at_once_and_in_batches() -> None:
    sender = Sender()
    provider = ExportingProvider(RESOURCE, sender, every_s=2 * BOUND_S)
    make_spans(provider, BATCH_SPANS)
    assert sender.is_asked.wait(BOUND_S)
    provider.shutdown()
    (payload,) = sender.payloads
    (of_resource,) = ExportTraceServiceRequest.FromString(payload).resource_spans
    assert len(of_resource.scope_spans[0].spans) == BATCH_SPANS


def test_what_finds_the_queue_full_is_counted_and_what_a_collector_took_is_not() -> None:
    sender = Sender(holds=True)
    provider = ExportingProvider(RESOURCE, sender)
    make_spans(provider, 1)
    assert sender.is_asked.wait(BOUND_S)  # it holds the one; the queue is empty again
    make_spans(provider, QUEUE_SPANS)
    assert traces.dropped_spans(provider) == 0
    make_spans(provider, 7)
    assert traces.dropped_spans(provider) == 7

    sender.may_go_on.set()
    provider.shutdown()
    assert traces.dropped_spans(provider) == 7


def test_large_spans_fill_the_queue_by_their_bytes_and_go_in_smaller_batches() -> None:
    sender = Sender(holds=True)
    provider = ExportingProvider(RESOURCE, sender)
    make_spans(provider, 1)
    assert sender.is_asked.wait(BOUND_S)
    make_spans(provider, QUEUE_BYTES // 2**20 + 2, content="x" * 2**20)
    assert traces.dropped_spans(provider) == 3
    sender.may_go_on.set()
    provider.shutdown()
    assert traces.dropped_spans(provider) == 3
    assert max(map(len, sender.payloads)) < span_export.BATCH_BYTES + 2 * 2**20


@pytest.mark.parametrize("result", [False, RuntimeError("no sender should")])
def test_what_no_collector_took_is_counted(result: bool | Exception) -> None:
    provider = ExportingProvider(RESOURCE, Sender(result))
    make_spans(provider, 5)
    provider.shutdown()
    assert traces.dropped_spans(provider) == 5


def test_what_ends_after_the_end_is_counted() -> None:
    provider = ExportingProvider(RESOURCE, Sender())
    late = provider.get_tracer("test").start_span("late")
    provider.shutdown()
    late.end()
    assert provider.dropped == 1


def test_without_tracing_nothing_is_lost() -> None:
    assert traces.dropped_spans(None) == 0
