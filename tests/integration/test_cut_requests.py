"""Requests cut at random, by FIN and by RST, before and after their first token: nothing of them stays behind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from simulator.attempts import prompt_hash
from support import chaos
from support.platform import Platform, chat, eventually
from support.wire import Wire

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

pytestmark = [pytest.mark.chaos, pytest.mark.measured, pytest.mark.timeout(600 if chaos.IS_LONG else 120)]
CUTS = chaos.times(60, 300)
AT_ONCE = chaos.times(4, 8)
CANCELLED_WITHIN_S = 0.5
SCRIPTS = {
    "plain, silent": ("[[sim ttft_ms=60000]]", False),
    "plain, refused and retried": ("[[sim status=503 retry_after=5]]", False),
    "stream, silent": ("[[sim ttft_ms=60000]]", True),
    "stream, talking": ("[[sim itl_ms=20 tokens=10000]]", True),
    "stream, gone silent": ("[[sim how=stall cut_after=9]]", True),
}


@dataclass(frozen=True)
class Cut:
    """One request, and when its client leaves."""

    prompt: str
    is_stream: bool
    events: int
    """That its client has read; 0: before the first byte."""
    is_reset: bool


def draw(chance: random.Random, count: int) -> Iterable[Cut]:
    nonce = chance.random()
    for number in range(count):
        script, is_stream = chance.choice(list(SCRIPTS.values()))
        has_events = "itl_ms" in script or "stall" in script
        events = chance.randint(1, 9) if has_events else 0
        yield Cut(f"{nonce}, {number} {script}", is_stream, events, chance.random() < 0.5)


def left_at(stack: Platform, cut: Cut, after: int) -> float:
    """Send it, leave, and say when."""
    body = chat(cut.prompt, stream=cut.is_stream)
    wire = Wire(stack, body)
    eventually(lambda: attempts_of(stack, cut, after))
    if cut.events:
        wire.read_until(b"data: ", cut.events)
    left = time.monotonic()
    if cut.is_reset:
        wire.reset()
    else:
        wire.close()
    return left


def attempts_of(stack: Platform, cut: Cut, after: int) -> list[dict[str, Any]]:
    wanted = prompt_hash(chat(cut.prompt))
    return [attempt for attempt in stack.attempts_after(after) if attempt["prompt"] == wanted]


def test_what_a_client_left_is_cancelled_upstream_and_nothing_stays_in_flight(stack: Platform) -> None:
    cuts = list(draw(chaos.chance(), CUTS))
    before = (stack.last_attempt() or {"seq": 0})["seq"]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        left = dict(zip(cuts, clients.map(lambda cut: left_at(stack, cut, before), cuts), strict=True))

    def when_all_have_ended() -> list[dict[str, Any]] | None:
        attempts = stack.attempts_after(before)
        return attempts if all(attempt["cancelled"] or attempt["finished"] for attempt in attempts) else None

    by_prompt = {prompt_hash(chat(cut.prompt)): cut for cut in cuts}
    ended = eventually(when_all_have_ended)
    assert len(ended) == len(cuts)  # nobody asked once more for somebody who had left
    late_s = sorted(
        attempt["cancelled"] - left[by_prompt[attempt["prompt"]]] for attempt in ended if attempt["cancelled"]
    )
    p99_s = late_s[round(0.99 * (len(late_s) - 1))]
    print(f"{len(late_s)} cancelled upstream: p50 {late_s[len(late_s) // 2]:.3f} s, p99 {p99_s:.3f} s")  # noqa: T201  # with -s
    assert len(late_s) > len(cuts) / 2
    assert p99_s <= CANCELLED_WITHIN_S
    eventually(lambda: stack.in_flight() == 0)


def test_the_gauge_of_what_is_in_flight_counts_what_is(stack: Platform, prompt: str) -> None:
    eventually(lambda: stack.in_flight() == 0)
    wire = Wire(stack, chat(f"{prompt} [[sim ttft_ms=60000]]"))
    eventually(lambda: stack.in_flight() == 1)
    wire.close()
    eventually(lambda: stack.in_flight() == 0)
