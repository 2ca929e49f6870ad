from __future__ import annotations

import pytest

from gateway.access.failed_logins import FailedLogins, TooManyFailedLogins, network_of
from support.clock import Clock


def is_full(logins: FailedLogins, address: str | None) -> str | None:
    """How long to wait, when there is no failure left."""
    try:
        logins.check(address)
    except TooManyFailedLogins as error:
        return error.headers["retry-after"]
    return None


def test_twenty_failures_are_free_and_then_there_is_one_every_three_seconds() -> None:
    clock = Clock()
    logins = FailedLogins(20, clock=clock)
    for _ in range(20):
        assert is_full(logins, "192.0.2.1") is None
        logins.note("192.0.2.1")
    assert is_full(logins, "192.0.2.1") == "3"
    clock.advance(2.9)
    assert is_full(logins, "192.0.2.1") == "1"
    clock.advance(0.1)
    assert is_full(logins, "192.0.2.1") is None, "who waits as long as it was told gets in"
    logins.note("192.0.2.1")
    assert is_full(logins, "192.0.2.1") == "3"
    clock.advance(60)
    for _ in range(20):
        assert is_full(logins, "192.0.2.1") is None
        logins.note("192.0.2.1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.0.2.254", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.0/24"),
        ("2001:db8:0:12ff::1", "2001:db8:0:1200::/56"),
        ("2001:db8:0:1200::2", "2001:db8:0:1200::/56"),
        ("unix", "unix"),
        (None, ""),
    ],
)
def test_an_address_counts_for_its_network(address: str | None, network: str) -> None:
    assert network_of(address) == network


def test_what_is_remembered_is_bounded_and_the_newest_stay() -> None:
    logins = FailedLogins(1, clock=Clock())
    for number in range(10_050):
        logins.note(f"10.{number >> 8}.{number & 255}.1")
    assert is_full(logins, "10.0.0.1") is None
    assert is_full(logins, f"10.{10_049 >> 8}.{10_049 & 255}.1") is not None
