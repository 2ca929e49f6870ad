from __future__ import annotations

import random
from collections import Counter

from inference.choice import choose
from inference.targets import Policy, Target
from support.catalogue import MODEL, model, models_yaml, served, target

CHANCE = random.Random(11).random  # noqa: S311  # a test's, no secret


def targets(*weights: float) -> tuple[Target, ...]:
    text = models_yaml(model(*(target(f"t{place}", weight=weight) for place, weight in enumerate(weights))))
    return served(text, Policy()).models[MODEL].stable


def shares(those: tuple[Target, ...], *, keep: bool = False) -> list[float]:
    chosen: Counter[str] = Counter()
    for _ in range(4_000):
        one = choose(those, CHANCE)
        chosen[one.name] += 1
        if keep:
            one.concurrency._slot()
    return [chosen[one.name] / 4_000 for one in those]


def test_an_idle_models_traffic_is_shared_by_weight() -> None:
    first, second, third = shares(targets(6, 3, 1))
    assert abs(first - 0.6) < 0.03
    assert abs(second - 0.3) < 0.03
    assert abs(third - 0.1) < 0.03


def test_calls_that_stay_are_spread_by_weight_and_never_pile_up() -> None:
    first, second, third = shares(targets(2, 1, 1), keep=True)
    assert abs(first - 0.5) < 0.01
    assert abs(second - 0.25) < 0.01
    assert abs(third - 0.25) < 0.01


def test_the_one_with_fewer_calls_per_weight_is_chosen_of_two() -> None:
    busy, idle = those = targets(1, 1)
    busy.concurrency._slot()
    assert {choose(those, CHANCE) for _ in range(100)} == {idle}


def test_a_target_without_weight_is_chosen_only_among_such() -> None:
    _, spare = those = targets(1, 0)
    those[0].concurrency._slot()
    assert spare not in {choose(those, CHANCE) for _ in range(100)}
    assert choose([spare], CHANCE) is spare
