from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from devstack.span_log import SpanLog


def export(trace: int, span: int, parent: int = 0, *, start_ns: int = 1_000_000, name: str = "GET /") -> bytes:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    attribute = resource_spans.resource.attributes.add(key="service.name")
    attribute.value.string_value = "gateway"
    resource_spans.scope_spans.add().spans.add(
        trace_id=trace.to_bytes(16),
        span_id=span.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        name=name,
        kind=2,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + 5_000_000,
    )
    return bytes(request.SerializeToString())


def test_a_span_is_given_back_in_full() -> None:
    request = ExportTraceServiceRequest.FromString(export(1, 2, 3))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.status.code = 2
    for key, value in {"text": "a", "number": 7, "flag": True}.items():
        kind = {str: "string_value", int: "int_value", bool: "bool_value"}[type(value)]
        setattr(span.attributes.add(key=key).value, kind, value)
    span.attributes.add(key="list").value.array_value.values.add().double_value = 0.5
    event = span.events.add(name="retry", time_unix_nano=9)
    event.attributes.add(key="wait_s").value.double_value = 0.1
    span.links.add(trace_id=b"\x0f" * 16, span_id=b"\x0e" * 8)
    log = SpanLog()

    log.add(request.SerializeToString())

    assert log.trace(f"{1:032x}") == [
        {
            "trace_id": f"{1:032x}",
            "span_id": f"{2:016x}",
            "parent_id": f"{3:016x}",
            "service": "gateway",
            "name": "GET /",
            "kind": "server",
            "start_ns": 1_000_000,
            "end_ns": 6_000_000,
            "status": "error",
            "attributes": {"text": "a", "number": 7, "flag": True, "list": [0.5]},
            "events": [{"name": "retry", "time_ns": 9, "attributes": {"wait_s": 0.1}}],
            "links": [{"trace_id": "0f" * 16, "span_id": "0e" * 8, "attributes": {}}],
        }
    ]


def test_spans_of_one_trace_that_arrive_apart_are_one_trace() -> None:
    log = SpanLog()

    log.add(export(1, 2, parent=1, start_ns=2_000_000))
    log.add(export(1, 1))

    assert [span["span_id"] for span in log.trace(f"{1:032x}")] == [f"{1:016x}", f"{2:016x}"]
    assert [(trace["name"], trace["spans"], trace["duration_ms"]) for trace in log.recent()] == [("GET /", 2, 6.0)]


def test_a_trace_whose_root_is_missing_has_no_name_yet() -> None:
    log = SpanLog()

    log.add(export(1, 2, parent=1))

    assert [(trace["name"], trace["service"], trace["kind"]) for trace in log.recent()] == [(None, None, None)]


def test_the_trace_that_began_last_comes_first() -> None:
    log = SpanLog()

    for trace, start_ns in ((1, 10), (2, 30), (3, 20)):
        log.add(export(trace, 1, start_ns=start_ns))

    assert [int(trace["trace_id"], 16) for trace in log.recent()] == [2, 3, 1]


def test_the_oldest_traces_make_room() -> None:
    log = SpanLog(max_traces=2)

    for trace in (1, 2, 3):
        log.add(export(trace, 1))

    assert log.trace(f"{1:032x}") == []
    assert len(log.recent()) == 2


def test_a_trace_without_end_does_not_take_all_memory() -> None:
    log = SpanLog(max_spans_per_trace=3)

    for span in range(1, 10):
        log.add(export(1, span))

    assert len(log.trace(f"{1:032x}")) == 3


def test_an_unknown_trace_has_no_spans() -> None:
    assert SpanLog().trace("0" * 32) == []
