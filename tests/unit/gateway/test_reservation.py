"""A reservation is settled once, by the last of those who hold it."""

from __future__ import annotations

from common.usage import Usage
from gateway.reservation import Reservation


def test_it_is_settled_when_the_last_holder_lets_go() -> None:
    settled: list[Usage | None] = []
    reservation = Reservation(settled.append)
    reservation.hold()

    reservation.release()
    assert settled == []

    reservation.usage = Usage(1, 2)
    reservation.release()
    assert settled == [Usage(1, 2)]


def test_without_usage_nothing_was_used() -> None:
    settled: list[Usage | None] = []

    Reservation(settled.append).release()

    assert settled == [None]
