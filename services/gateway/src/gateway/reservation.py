"""What an admitted call holds of its limits, from admission until its work has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.usage import Usage


class Reservation:
    """Settled once, when the last of those who hold it lets go, with the usage that one of them has set.

    The answer to the caller holds it; work that outlives its caller (a flight that others follow) holds it as well.
    Without usage the call used nothing: it was refused, answered from the cache, or never reached a model.
    """

    __slots__ = ("_holders", "_settle", "is_unheard", "usage")

    def __init__(self, settle: Callable[[Usage | None], None] = lambda _: None) -> None:
        self._settle = settle
        self._holders = 1
        self.usage: Usage | None = None
        self.is_unheard = False
        """A model was at work on a whole answer of which nothing came back: what it wrote is anybody's guess."""

    def hold(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._settle(self.usage)
