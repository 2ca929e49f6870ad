"""The decision record: one account, shown in a header, on the span and in the log line."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.decision import HEADER, Decision


def test_pairs_stand_in_the_order_of_their_decision_and_the_newest_value_counts() -> None:
    headers: dict[str, str] = {}
    decision = Decision(headers)
    for key, value in (("key", "k1"), ("status", 200), ("cache", "miss"), ("status", 429)):
        decision.note(key, value)
    assert headers == {HEADER: "key=k1; status=429; cache=miss"}


def test_the_header_is_there_as_soon_as_anything_is_decided() -> None:
    headers: dict[str, str] = {}
    decision = Decision(headers)
    assert headers == {}
    decision.note("key", "k1")
    assert headers == {HEADER: "key=k1"}


def test_log_and_span_say_the_same_and_also_what_came_later() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    log: dict[str, Any] = {}
    with provider.get_tracer("test").start_as_current_span("request"):
        decision = Decision()
        decision.note("key", "k1")
        decision.note("settled", "30tok,5uusd")
        decision.record(log)
    (span,) = exporter.get_finished_spans()
    assert log == {"decision": {"key": "k1", "settled": "30tok,5uusd"}}
    assert dict(span.attributes or {}) == {
        "spillway.decision.key": "k1",
        "spillway.decision.settled": "30tok,5uusd",
    }


def test_where_nothing_was_decided_nothing_is_logged() -> None:
    log: dict[str, Any] = {}
    Decision().record(log)
    assert log == {}
