from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference.canary import Canary, percentile
from inference.catalogue import CanarySpec
from support.clock import Clock

TENANTS = [f"tenant-{number}" for number in range(5_000)]
OLD, NEW = "old", "new"


class Trial:
    def __init__(self, **fields: Any) -> None:
        self.clock = Clock()
        self.spec = CanarySpec.model_validate({"target": NEW, "percent": 20, **fields})
        self.canary = Canary("m", self.spec, clock=self.clock)

    def runs(self, target: str, good: int, bad: int = 0, ttft_s: float | None = None) -> Trial:
        for number in range(good + bad):
            self.clock.advance(0.01)
            self.canary.note(target, is_error=number >= good, ttft_s=ttft_s)
        return self


def share(canary: Canary) -> float:
    return sum(canary.serves(tenant) for tenant in TENANTS) / len(TENANTS)


@pytest.mark.parametrize("percent", [0, 1, 20, 100])
def test_a_share_of_the_tenants_meets_the_canary(percent: float) -> None:
    assert abs(share(Trial(percent=percent).canary) - percent / 100) < 0.02
    assert share(Trial(percent=0).canary) == 0
    assert share(Trial(percent=100).canary) == 1


def test_a_tenant_stays_where_it_is_on_every_replica_and_when_the_share_grows() -> None:
    small, again, large = Trial().canary, Trial().canary, Trial(percent=40).canary
    mine = {tenant for tenant in TENANTS if small.serves(tenant)}
    assert mine == {tenant for tenant in TENANTS if again.serves(tenant)}
    assert mine < {tenant for tenant in TENANTS if large.serves(tenant)}


def test_another_canary_meets_other_tenants() -> None:
    first = Trial().canary
    second = Canary("m", CanarySpec(target="newer", percent=20), clock=Clock())
    both = sum(first.serves(tenant) and second.serves(tenant) for tenant in TENANTS)
    assert both / len(TENANTS) < 0.06


def test_a_canary_as_good_as_the_others_stays() -> None:
    trial = Trial().runs(OLD, 200, 4, ttft_s=0.2).runs(NEW, 100, 2, ttft_s=0.25)
    assert (trial.canary.rolled_back, trial.canary.percent) == (None, 20)


def test_more_errors_than_the_others_beyond_the_bound_roll_back() -> None:
    trial = Trial().runs(OLD, 99, 1).runs(NEW, 18, 3)
    assert (trial.canary.rolled_back, trial.canary.percent, trial.canary.rollbacks) == ("errors", 0, 1)
    assert share(trial.canary) == 0


def test_errors_that_the_others_have_as_well_are_not_its_own() -> None:
    assert Trial().runs(OLD, 80, 20).runs(NEW, 40, 10).canary.rolled_back is None


def test_it_is_not_judged_before_it_was_asked_often_enough_nor_by_what_is_long_ago() -> None:
    trial = Trial(min_requests=20, window_s=60).runs(OLD, 100).runs(NEW, 0, 19)
    assert trial.canary.rolled_back is None
    trial.clock.advance(61)
    assert trial.runs(NEW, 19, 1, ttft_s=1).canary.rolled_back is None


def test_a_slower_first_event_beyond_the_bound_rolls_back() -> None:
    slow = Trial(max_ttft_ratio=1.5).runs(OLD, 100, ttft_s=0.2)
    assert slow.runs(NEW, 30, ttft_s=0.29).canary.rolled_back is None
    slow.clock.advance(2)
    assert slow.runs(NEW, 200, ttft_s=0.31).canary.rolled_back == "ttft"


def test_whole_answers_say_nothing_about_the_first_event() -> None:
    assert Trial().runs(OLD, 100).runs(NEW, 100).canary.rolled_back is None


def test_a_rollback_is_said_once_in_the_log_and_on_the_span(caplog: pytest.LogCaptureFixture) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with caplog.at_level(logging.INFO), provider.get_tracer("test").start_as_current_span("chat"):
        trial = Trial().runs(OLD, 100).runs(NEW, 0, 50)
        trial.canary.ejected()
    (record,) = caplog.records
    assert (record.message, record.__dict__["target"], record.__dict__["error_rate"]) == ("canary_rolled_back", NEW, 1)
    (event,) = exporter.get_finished_spans()[0].events
    assert event.name == "canary_rolled_back"
    assert event.attributes is not None
    assert event.attributes["spillway.canary.reason"] == "errors"


def test_a_window_holds_a_bounded_number_of_outcomes_and_its_rate_stays_right() -> None:
    trial = Trial(percent=50).runs(OLD, 5_000, 0).runs(NEW, 900, 30)
    assert len(trial.canary._stable.outcomes) == 1_000
    trial = Trial().runs(OLD, 0, 1_000).runs(OLD, 1_000)
    assert trial.canary._stable.error_rate == 0


def test_a_percentile_is_the_nearest_rank() -> None:
    assert percentile([float(number) for number in range(1, 101)], 0.95) == 95
    assert percentile([3.0], 0.95) == 3


def test_two_errors_are_no_verdict_whatever_their_share() -> None:
    assert Trial(min_requests=5).runs(OLD, 100).runs(NEW, 5, 2).canary.rolled_back is None
