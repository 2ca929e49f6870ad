"""Refusals are counted by our own words, each once."""

from __future__ import annotations

from collections import Counter

from common.errors import NotFound, Overloaded, RateLimited
from common.telemetry.refusals import MOST, Refusals


def test_a_refusal_is_counted_by_its_code_and_whose_limit_it_was() -> None:
    refusals = Refusals()
    refusals.note(Overloaded("Later."))
    refusals.note(NotFound("No such model.", code="model_not_found"))
    assert refusals.counts == {("overloaded", "platform"): 1, ("model_not_found", ""): 1}


def test_it_is_counted_once_however_often_it_is_noted_on_its_way() -> None:
    refusals, error = Refusals(), Overloaded("Later.")
    refusals.note(error)
    refusals.note(error)
    assert refusals.counts.total() == 1


def test_an_upstreams_own_words_are_no_reason() -> None:
    refusals = Refusals()
    for number in range(1000):
        error = RateLimited("Slower!", code=f"made_up_{number}")
        error.scope, error.is_told = "upstream", True
        refusals.note(error)
    assert refusals.counts == {("rate_limit_exceeded", "upstream"): 1000}


def test_reasons_are_bounded_whatever_they_are() -> None:
    refusals = Refusals()
    for number in range(1000):
        refusals.count(f"made_up_{number}", "")
    refusals.count("made_up_0", "")
    assert len(refusals.counts) == MOST + 1
    assert refusals.counts["other", ""] == 1000 - MOST
    assert Counter(refusals.counts)["made_up_0", ""] == 2
