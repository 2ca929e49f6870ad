"""Counts what the platform refuses, by the code that the caller is told and by whose limit it was."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.errors import ServiceError

MOST = 200
"""Pairs that are told apart; our own are fewer. Whatever comes beyond them is `other`."""
_OTHER = ("other", "")


class Refusals:
    """Plain counters. Words of an upstream are not among them: anybody may make those up."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def note(self, error: ServiceError) -> None:
        """Count `error`, once however often it is noted on its way to the caller."""
        if not error.is_counted:
            error.is_counted = True
            self.count(error.own_code or "", error.scope)

    def count(self, code: str, scope: str) -> None:
        pair = (code, scope)
        self.counts[pair if pair in self.counts or len(self.counts) < MOST else _OTHER] += 1
