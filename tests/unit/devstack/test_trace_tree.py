from __future__ import annotations

from typing import Any

from devstack.trace_tree import Span, build, draw

MS = 1_000_000


def span(span_id: str, parent_id: str | None, start_ms: int, end_ms: int, **fields: Any) -> Span:
    defaults: dict[str, Any] = {
        "service": "gateway",
        "name": span_id,
        "kind": "internal",
        "status": "unset",
        "attributes": {},
        "events": [],
    }
    return Span(span_id, parent_id, start_ns=start_ms * MS, end_ns=end_ms * MS, **(defaults | fields))


RETRIED = [
    span("attempt 2", "chat", 120, 190, service="inference"),
    span("request", None, 0, 200, attributes={"http.response.status_code": 200}),
    span("chat", "request", 20, 190, service="inference"),
    span("attempt 1", "chat", 20, 100, service="inference", status="error", attributes={"error.type": "status_503"}),
]


def test_children_stand_below_their_parent_in_the_order_they_began() -> None:
    tree = build(RETRIED)

    assert [span.name for span in tree.walk()] == ["request", "chat", "attempt 1", "attempt 2"]
    assert tree.problems == []


def test_the_waterfall_names_services_times_and_outcomes() -> None:
    assert draw("t1", build(RETRIED)) == [
        "trace t1: 200.0 ms, 4 spans, 2 services",
        "gateway    request        ██████████████████████████████    200.0 ms  200",
        "inference  └ chat            ██████████████████████████     170.0 ms",
        "inference    ├ attempt 1     ████████████                    80.0 ms  status_503",
        "inference    └ attempt 2                    ██████████       70.0 ms",
    ]


def test_the_fastest_span_is_seen_as_well() -> None:
    lines = draw("t1", build([span("slow", None, 0, 10_000), span("fast", "slow", 10_000, 10_000)]))

    assert lines[2].count("█") == 1


def test_attributes_and_events_are_listed_when_asked_for() -> None:
    events = [{"name": "retry", "time_ns": 5 * MS, "attributes": {"wait_s": 0.1}}]
    tree = build([span("request", None, 0, 10, attributes={"b": 2, "a": "one"}, events=events)])

    lines = [line.strip() for line in draw("t1", tree, attributes=True)[2:]]

    assert lines == ["a = one", "b = 2", "+5.0 ms retry wait_s=0.1"]
    assert len(draw("t1", tree)) == 2


def test_a_span_whose_parent_never_arrived_is_reported_with_its_subtree() -> None:
    tree = build([span("request", None, 0, 10), span("lost", "gone", 2, 8), span("below", "lost", 3, 7)])

    assert tree.problems == ["1 without their parent: gateway 'lost'"]
    lines = draw("t1", tree)
    assert "(parent missing) lost" in lines[2]
    assert lines[-1].startswith("! 1 without")
    assert len(list(tree.walk())) == 3


def test_more_than_one_root_is_reported() -> None:
    assert build([span("one", None, 0, 1), span("two", None, 1, 2)]).problems == ["2 roots instead of one"]


def test_a_trace_whose_root_has_not_arrived_is_reported() -> None:
    problems = build([span("chat", "request", 0, 1)]).problems

    assert problems[0] == "no root"


def test_no_span_at_all_is_said_and_no_failure() -> None:
    assert draw("t1", build([])) == ["trace t1: no spans"]
