"""How long an answer takes says nothing of what other tenants asked: there is no timing oracle."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest

from support.chaos import chance, times
from support.platform import Platform, chat, eventually

if TYPE_CHECKING:
    import httpx2

pytestmark = [pytest.mark.chaos, pytest.mark.measured]
CHAT = "/v1/chat/completions"
PROBES = times(40, 500)
LIKELY = 0.01
"""The least probability of such a difference between two samples of the same distribution."""
TRIES = 2
"""Chance alone makes one try in a hundred less likely than that."""


def likelihood(one: list[float], other: list[float]) -> float:
    """That two samples of this difference are of one distribution, by Kolmogorov and Smirnov.

    Source: Numerical Recipes, 14.3: the asymptotic distribution, good from about 20 values each.
    """
    apart = max(
        abs(sum(value <= at for value in one) / len(one) - sum(value <= at for value in other) / len(other))
        for at in (*one, *other)
    )
    root = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    far = (root + 0.12 + 0.11 / root) * apart
    if far < 0.3:  # the series converges too slowly there, to 1
        return 1.0
    return 2.0 * sum((1 if k % 2 else -1) * math.exp(-2 * (k * far) ** 2) for k in range(1, 100))


def took_s(client: httpx2.Client, prompt: str) -> tuple[float, str]:
    """And whether it came out of the cache."""
    started = time.perf_counter()
    answer = client.post(CHAT, json=chat(prompt))
    took = time.perf_counter() - started
    assert answer.status_code == 200
    return took, answer.headers["x-cache"]


@pytest.mark.timeout(PROBES * 3 + 60)
def test_what_another_tenant_has_cached_is_no_faster_than_what_nobody_has(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    order = chance()
    likely = []
    with stack.http(stack.other_key) as stranger:
        for again in range(TRIES):
            cached = [f"{prompt} cached {again} {number}" for number in range(PROBES)]
            for one in cached:
                took_s(http, one)
            eventually(lambda: took_s(http, cached[-1])[1] == "hit")  # noqa: B023  # called at once
            own_hits = [took for took, outcome in (took_s(http, one) for one in cached) if outcome == "hit"]
            seen: dict[bool, list[float]] = {True: [], False: []}
            for number, one in enumerate(cached):
                both = [(True, one), (False, f"{prompt} fresh {again} {number}")]
                for is_anothers, asked in order.sample(both, 2):
                    took, outcome = took_s(stranger, asked)
                    assert outcome == "miss"
                    seen[is_anothers].append(took)
            assert len(own_hits) > PROBES / 2
            assert likelihood(own_hits, seen[False]) < LIKELY  # whoever may know is told apart: the test can fail
            likely.append(likelihood(seen[True], seen[False]))
            if likely[-1] > LIKELY:
                break
    print(f"{PROBES} probes: p = {likely}")  # noqa: T201  # the figure of a chaos run
    assert likely[-1] > LIKELY


def test_the_measure_tells_distributions_apart_and_not_samples_of_one() -> None:
    even, odd = [float(n) for n in range(0, 200, 2)], [float(n) for n in range(1, 200, 2)]
    assert likelihood(even, odd) > 0.99
    assert 0.01 < likelihood(even, [value + 40 for value in odd]) < 0.05  # 1.36 over the root of n/2 is the table's 5 %
    assert likelihood(even, [value + 400 for value in odd]) < 1e-20
