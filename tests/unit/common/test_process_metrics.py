"""The lag that is shown: every reader sees the worst one, and it is forgotten in the end."""

from __future__ import annotations

from common.telemetry.process_metrics import LAG_WINDOW_S, LoopLag
from support.clock import Clock


def test_the_worst_lag_is_shown_to_every_reader_and_forgotten_after_two_windows() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    lag.observe(0.4)
    lag.observe(0.1)
    assert [lag.worst_s(), lag.worst_s()] == [0.4, 0.4]

    clock.advance(LAG_WINDOW_S)
    lag.observe(0.2)
    assert lag.worst_s() == 0.4

    clock.advance(LAG_WINDOW_S)
    lag.observe(0.1)
    assert lag.worst_s() == 0.2
