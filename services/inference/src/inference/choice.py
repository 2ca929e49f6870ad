"""Chooses among targets: two drawn by weight, and the one with fewer calls in flight per weight.

On a tie the first drawn, so that an idle model's traffic is shared by weight. Source: Mitzenmacher, The Power of Two
Choices in Randomized Load Balancing (2001).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.targets import Target


def choose(targets: Sequence[Target], random: Callable[[], float]) -> Target:
    """One of `targets`, of which there is at least one. Those of weight 0 are chosen only among themselves."""
    first = _drawn(targets, random)
    others = [target for target in targets if target is not first]
    if not others:
        return first
    second = _drawn(others, random)
    return second if second.load < first.load else first


def _drawn(targets: Sequence[Target], random: Callable[[], float]) -> Target:
    weights = [target.spec.weight for target in targets]
    total = sum(weights)
    if not total:
        return targets[int(random() * len(targets)) % len(targets)]
    point = random() * total
    for target, weight in zip(targets, weights, strict=True):
        point -= weight
        if point < 0:
            return target
    return max(targets, key=lambda target: target.spec.weight)
