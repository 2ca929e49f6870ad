from __future__ import annotations

import pytest

from gateway.caching.hot_entries import Hit, HotEntries
from support.clock import Clock

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hot(clock: Clock) -> HotEntries:
    return HotEntries(life_s=2, max_bytes=1_000, clock=clock)


def test_an_entry_that_was_read_is_remembered_and_grows_older(hot: HotEntries, clock: Clock) -> None:
    hot.remember("alice", ONE, Hit(b"answer", 7))
    clock.advance(1.5)
    assert hot.get("alice", ONE) == Hit(b"answer", 8, is_remembered=True)
    assert hot.hits == 1


def test_it_is_forgotten_within_its_life(hot: HotEntries, clock: Clock) -> None:
    hot.remember("alice", ONE, Hit(b"answer", 7))
    clock.advance(2)
    assert hot.get("alice", ONE) is None


def test_reading_it_from_memory_does_not_make_it_live_longer(hot: HotEntries, clock: Clock) -> None:
    hot.remember("alice", ONE, Hit(b"answer", 7))
    for _ in range(4):
        clock.advance(0.5)
        hot.get("alice", ONE)
    assert hot.get("alice", ONE) is None


def test_it_is_its_tenants_alone(hot: HotEntries) -> None:
    hot.remember("alice", ONE, Hit(b"answer", 7))
    assert hot.get("bob", ONE) is None


def test_it_takes_a_bounded_number_of_bytes_and_the_oldest_goes_first(hot: HotEntries) -> None:
    for number in range(10):
        hot.remember("alice", f"{number:064}", Hit(bytes(200), 0))
    kept = [number for number in range(10) if hot.get("alice", f"{number:064}")]
    assert kept == [5, 6, 7, 8, 9]


def test_an_entry_that_would_push_out_all_others_is_not_remembered(hot: HotEntries) -> None:
    hot.remember("alice", ONE, Hit(bytes(251), 0))
    assert hot.get("alice", ONE) is None


def test_what_is_remembered_anew_counts_once(hot: HotEntries) -> None:
    for _ in range(20):
        hot.remember("alice", ONE, Hit(bytes(200), 0))
        hot.remember("alice", TWO, Hit(bytes(200), 0))
    assert hot.get("alice", ONE)
    assert hot.get("alice", TWO)


def test_what_is_forgotten_is_gone_and_makes_room(hot: HotEntries) -> None:
    hot.remember("alice", ONE, Hit(b"answer", 0))
    hot.forget("alice", ONE)
    hot.forget("alice", ONE)
    assert hot.get("alice", ONE) is None
    hot.remember("alice", TWO, Hit(b"answer", 0))
    hot.clear()
    assert hot.get("alice", TWO) is None


def test_a_life_of_nothing_remembers_nothing(clock: Clock) -> None:
    hot = HotEntries(life_s=0, max_bytes=1_000, clock=clock)
    hot.remember("alice", ONE, Hit(b"answer", 0))
    assert hot.get("alice", ONE) is None
