"""How long each stage of a request took, for `Server-Timing` (W3C)."""

from __future__ import annotations

import time

HEADER = "server-timing"


class Timings:
    """Stages in the order in which they ended; shown in milliseconds."""

    __slots__ = ("_stages", "_started")

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: list[tuple[str, float]] = []

    def record(self, stage: str, since: float) -> None:
        """Note that `stage` began at `since` (of `time.perf_counter`) and ends now."""
        self._stages.append((stage, time.perf_counter() - since))

    def header(self) -> str:
        stages = [*self._stages, ("total", time.perf_counter() - self._started)]
        return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages)
