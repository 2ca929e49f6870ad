"""Holds back a storm of one warning: beyond a few a second from the same place in the code, they are counted, and one
line says how many there were. A dependency that is away must not cost the disk, nor hide what else is wrong.

What is below a warning is a record of its own (of a request, of a job's attempt, of what an administrator did).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_A_SECOND = 20


@dataclass(slots=True)
class Storm:
    """One place's lines of one second."""

    logger: str
    event: str
    since: float
    lines: int = 0

    @property
    def held_back(self) -> int:
        return self.lines - MOST_A_SECOND


class Storms:
    """Not for several threads at once. As many places are remembered as have logged within the last second."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], Storm] = {}

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        """Whether this line is written; `now` in seconds, of any clock that only goes forward."""
        if record.levelno < logging.WARNING:
            return True
        place = self._places.get((record.pathname, record.lineno))
        if place is None:
            place = Storm(record.name, str(record.msg), now)
            self._places[record.pathname, record.lineno] = place
        place.lines += 1
        return place.lines <= MOST_A_SECOND

    @property
    def is_watching(self) -> bool:
        return bool(self._places)

    def over(self, now: float) -> Iterator[Storm]:
        """The places whose second is over and that had more than their share; each of them begins anew."""
        ended = [key for key, place in self._places.items() if now - place.since >= 1]
        for key in ended:
            place = self._places.pop(key)
            if place.held_back > 0:
                yield place
