"""What a process uses, how late its event loop runs what is due, and what it turns away or loses."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common.background import running
from common.telemetry.metrics import reading, reading_each

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from opentelemetry.metrics import Meter

    from common.overload.shedder import Shedder
    from common.telemetry.refusals import Refusals

LAG_SAMPLE_S = 0.1
LAG_WINDOW_S = 15.0
"""A lag is shown for so long at least, and twice as long at most: every scraper sees the worst one."""
_STATM = Path("/proc/self/statm")


class LoopLag:
    """The worst of the last moments. Readers do not reset it: there may be two."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._worst_s = 0.0
        self._worst_before_s = 0.0

    def observe(self, lag_s: float) -> None:
        now = self._clock()
        if now - self._since >= LAG_WINDOW_S:
            self._since, self._worst_before_s, self._worst_s = now, self._worst_s, 0.0
        self._worst_s = max(self._worst_s, lag_s)

    def worst_s(self) -> float:
        return max(self._worst_s, self._worst_before_s)

    def watched(self) -> AbstractAsyncContextManager[None]:
        """Within a lifespan: look ten times a second."""
        return running(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SAMPLE_S
            await asyncio.sleep(LAG_SAMPLE_S)
            self.observe(max(0.0, loop.time() - due))


def observe(meter: Meter, lag: LoopLag) -> None:
    """Declare the instruments of a process."""
    meter.create_observable_gauge(
        "spillway.event_loop.lag", [reading(lag.worst_s)], "s", "How late the event loop was, at worst, just now."
    )
    meter.create_observable_gauge("spillway.memory.usage", [reading(_resident_bytes)], "By", "Resident set.")
    meter.create_observable_counter(
        "process.cpu.time", [reading(time.process_time)], "s", "Processor time used, of all threads."
    )


def observe_losses(meter: Meter, refusals: Refusals, shedder: Shedder | None, dropped_spans: Callable[[], int]) -> None:
    """Declare the instruments of what a process turns away, and of the telemetry that it loses."""
    meter.create_observable_counter(
        "spillway.refusals",
        [reading_each(lambda: refusals.counts, "reason", "scope")],
        "{request}",
        "Requests that got an error of the platform's, by its code and by whose limit it was.",
    )
    meter.create_observable_counter(
        "spillway.telemetry.dropped",
        [reading_each(lambda: {"spans": dropped_spans()}, "signal")],
        "{span}",
        "Spans that found the queue full, or that no collector took.",
    )
    if shedder is not None:
        meter.create_observable_counter(
            "spillway.shed",
            [reading_each(lambda: shedder.refused_for, "reason")],
            "{request}",
            "Requests refused at the door, by what there was too much of.",
        )


def _resident_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most so far, in bytes, where there is no /proc
