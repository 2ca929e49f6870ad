"""What a key's calls to a model turned out to be is what the next one is expected to be."""

from __future__ import annotations

import random

from gateway.limits.learning import DEFAULT_OUTPUT_TOKENS, TRUSTED_AFTER, Experience


def test_nothing_is_believed_before_some_answers() -> None:
    experience = Experience()
    for _ in range(TRUSTED_AFTER - 1):
        experience.learn("k", "m", 10, 1.0)
    assert experience.output_tokens("k", "m") == DEFAULT_OUTPUT_TOKENS
    experience.learn("k", "m", 10, 1.0)
    assert 10 <= experience.output_tokens("k", "m") <= 11  # rounded up


def test_about_nineteen_of_twenty_answers_stay_below() -> None:
    experience, chance = Experience(), random.Random(5)  # noqa: S311  # no secret
    sizes = [round(chance.lognormvariate(5, 0.8)) for _ in range(2_000)]
    for size in sizes:
        experience.learn("k", "m", size, 1.0)
    below = sum(size <= experience.output_tokens("k", "m") for size in sizes) / len(sizes)
    assert 0.85 < below < 0.99


def test_it_follows_a_change() -> None:
    experience = Experience()
    for size in [1_000] * 50 + [10] * 200:
        experience.learn("k", "m", size, 1.0)
    assert experience.output_tokens("k", "m") < 30


def test_one_key_and_model_teaches_nothing_of_another() -> None:
    experience = Experience()
    for _ in range(10):
        experience.learn("k", "m", 10, 1.0)
    assert experience.output_tokens("k", "other") == DEFAULT_OUTPUT_TOKENS
    assert experience.output_tokens("other", "m") == DEFAULT_OUTPUT_TOKENS


def test_absurd_sizes_stay_numbers() -> None:
    experience = Experience()
    for size in [0, -5, 10**15, 0, 10**15] * 3:
        experience.learn("k", "m", size, 1.0)
    assert 1 <= experience.output_tokens("k", "m") <= 1_000_000


def test_the_longest_unused_is_forgotten_first() -> None:
    experience = Experience(capacity=2)
    for _ in range(TRUSTED_AFTER):
        experience.learn("old", "m", 10, 1.0)
    experience.learn("used", "m", 10, 1.0)
    experience.learn("old", "m", 10, 1.0)
    experience.learn("new", "m", 10, 1.0)
    assert experience.output_tokens("old", "m") < 20
    assert experience.seconds("used", "m") == 1.0
    experience.learn("newer", "m", 10, 9.0)
    assert experience.output_tokens("old", "m") == DEFAULT_OUTPUT_TOKENS


def test_time_is_the_mean() -> None:
    experience = Experience()
    for seconds in (2.0, 4.0):
        experience.learn("k", "m", 1, seconds)
    assert experience.seconds("k", "m") == 3.0
