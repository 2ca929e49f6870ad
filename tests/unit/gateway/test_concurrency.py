from __future__ import annotations

import pytest

from gateway.admission.concurrency import FLOOR, AdaptiveLimit, Verdict


def answer(limit: AdaptiveLimit, verdict: Verdict, count: int = 1) -> None:
    for _ in range(count):
        limit.leave(limit.enter(), verdict)


def test_a_tenth_less_after_an_answer_that_says_too_much() -> None:
    limit = AdaptiveLimit(100)
    answer(limit, "too_much")
    assert limit.limit == 90


def test_many_refusals_of_one_moment_are_one_step_down() -> None:
    limit = AdaptiveLimit(100)
    for epoch in [limit.enter() for _ in range(50)]:
        limit.leave(epoch, "too_much")
    assert limit.limit == 90


def test_never_less_than_the_floor_nor_more_than_the_ceiling() -> None:
    limit = AdaptiveLimit(20)
    answer(limit, "too_much", 100)
    assert limit.limit == FLOOR
    answer(limit, "clean", 1_000)
    assert limit.limit == 20


def test_a_ceiling_below_the_floor_is_kept() -> None:
    limit = AdaptiveLimit(2)
    answer(limit, "too_much", 10)
    assert limit.limit <= 2


def test_one_more_after_as_many_clean_answers_as_the_limit() -> None:
    limit = AdaptiveLimit(100)
    answer(limit, "too_much")
    answer(limit, "clean", 89)
    assert limit.limit == 90
    answer(limit, "clean")
    assert limit.limit == 91


@pytest.mark.parametrize("verdict", ["unknown"])
def test_an_answer_that_says_nothing_changes_nothing(verdict: Verdict) -> None:
    limit = AdaptiveLimit(100)
    answer(limit, verdict, 500)
    assert (limit.limit, limit.in_use) == (100, 0)


def test_an_overloaded_inference_is_given_less_than_was_really_under_way() -> None:
    limit = AdaptiveLimit(500)
    epochs = [limit.enter() for _ in range(40)]
    limit.leave(epochs.pop(), "overloaded")
    assert limit.limit == 36
