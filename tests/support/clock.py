"""A clock that stands still until a test moves it, and an event loop that waits for nothing."""

from __future__ import annotations

import asyncio


class Clock:
    """Callable like `time.monotonic` and `time.time`; `advance` is the only thing that moves it."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time goes on only while everybody waits, and then at once to the next timer: an hour passes in milliseconds,
    and how long anything took is exact on the busiest machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        look = self._selector.select  # type: ignore[attr-defined]  # asyncio's own, as every loop of selectors has it

        def select(seconds: float | None) -> object:
            assert seconds is not None, "everybody waits for something that will not happen"
            self._now += seconds
            return look(0)

        self._selector.select = select  # type: ignore[attr-defined]  # as above

    def time(self) -> float:
        return self._now
