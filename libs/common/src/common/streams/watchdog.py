"""Bounds the waits of a stream with one timer. `asyncio.timeout` around each chunk costs more than the chunk."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from common.deadline import Deadline


class Watchdog:
    """`with watchdog:` around each wait of one task: `TimeoutError` when nothing was heard for `limit_s`.

    The time counts from `heard()`, not from the beginning of a wait: what does not count as hearing (a comment in a
    stream) prolongs nothing. The deadline bounds it as well. Not reentrant, and of one task at a time. The timer is
    moved only when it rings, so that a wait costs two assignments.
    """

    __slots__ = ("_before", "_ends_at", "_heard_at", "_is_waiting", "_limit_s", "_loop", "_rang", "_task", "_timer")

    def __init__(self, limit_s: float, deadline: Deadline | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._ends_at = math.inf if deadline is None else self._loop.time() + deadline.remaining_s()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._is_waiting = self._rang = False
        self._before = 0
        self.heard()

    def heard(self) -> None:
        """What is waited for has come: the time counts anew."""
        self._heard_at = self._loop.time()

    @property
    def is_past_deadline(self) -> bool:
        return self._loop.time() >= self._ends_at

    def close(self) -> None:
        """Let go of the timer; a watchdog that is never closed holds its task until the timer rings once more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> Self:
        self._is_waiting = True
        if self._timer is None:
            self._task = asyncio.current_task()
            self._before = self._task.cancelling() if self._task is not None else 0
            self._timer = self._loop.call_at(self._due(), self._ring)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_waiting = False
        if self._rang:
            self._rang = False
            # As asyncio.Timeout does it: a cancellation by somebody else goes on, ours becomes a TimeoutError.
            if self._task is not None and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _due(self) -> float:
        return min(self._heard_at + self._limit_s, self._ends_at)

    def _ring(self) -> None:
        self._timer = None
        if not self._is_waiting:
            return  # the next wait starts the timer again
        if self._loop.time() < self._due():
            self._timer = self._loop.call_at(self._due(), self._ring)
        elif self._task is not None:
            self._rang = True
            self._task.cancel()
