"""Every tier is restarted, replica by replica, under load with live streams, and nobody notices.

In the suite one replica of each tier, with short streams; `./justw chaos` takes both, three times, with the defaults
of production and streams of 8 s.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.background import end
from support.chaos import IS_LONG, times
from support.cluster_service import until
from support.edge import Edge, Tally
from support.fleet import TIERS, Fleet
from support.platform import make_key

pytestmark = [pytest.mark.chaos, pytest.mark.measured, pytest.mark.timeout(times(300, 1_800))]

ROOT = Path(__file__).parents[2]
STREAM_S = times(1, 8)
DRAIN_DELAY_S = times(2, 10)
STARVED_S = 0.2
"""What a call of a store may take. A process that waited longer for a processor, within one second, makes such calls
fail whatever else happens: then it is the machine that was late, not the platform.
"""


@dataclass
class Round:
    tally: Tally
    restarts: int
    seconds: float
    waited_s: float
    """In its worst second, of the process that waited longest."""

    @property
    def says_nothing(self) -> bool:
        return not self.tally.is_clean and self.waited_s > STARVED_S

    def __str__(self) -> str:
        tally = self.tally
        return (
            f"{tally.tier:<10} {self.restarts:>8} {self.seconds:>8.1f} {tally.requests:>9} {len(tally.failures):>9}"
            f" {tally.streams:>8} {len(tally.cut):>12} {tally.jobs:>5} {len(tally.lost):>5} {self.waited_s:>6.2f}s"
            f"{'  the machine was busy, so once more: ' if self.says_nothing else ''}"
            f"{'; '.join(tally.failures + tally.cut + tally.lost)[:1_000] if self.says_nothing else ''}"
        )


async def test_a_rolling_restart_of_every_tier_loses_no_request_and_ends_no_stream(tmp_path: Path) -> None:
    rounds: list[Round] = []
    async with Fleet(tmp_path, drain_delay_s=DRAIN_DELAY_S, drain_timeout_s=30) as fleet:
        key = make_key(fleet.services["gateway"].pick(), "roller")
        async with Edge(fleet.services["gateway"], key, rate=8, stream_s=STREAM_S) as edge:
            for tier in TIERS * times(1, 3):
                for _ in range(3):
                    rounds.append(await roll(fleet, edge, tier, replicas=times(1, 2)))
                    if not rounds[-1].says_nothing:
                        break
    judge(rounds)


@pytest.mark.skipif(not IS_LONG, reason="takes minutes: ./justw chaos")
async def test_an_update_from_the_last_release_tier_by_tier_loses_nothing_whoever_talks_to_whom(tmp_path: Path) -> None:
    """SPILLWAY_RELEASED names a revision to start from, if it is not the last tag."""
    source = tmp_path / "released"
    unpack(os.environ.get("SPILLWAY_RELEASED") or last_release(), source)
    fleet = Fleet(tmp_path, drain_delay_s=DRAIN_DELAY_S, drain_timeout_s=30)
    fleet.source = source
    async with fleet:
        key = make_key(fleet.services["gateway"].pick(), "updater")
        async with Edge(fleet.services["gateway"], key, rate=8, stream_s=STREAM_S) as edge:
            fleet.source = None
            # Half of each tier first, callers before those whom they call: the worst order that there is.
            rounds = [await roll(fleet, edge, tier, replicas=1) for tier in (*TIERS, *TIERS)]
    judge(rounds)


def last_release() -> str:
    tags = git("tag", "--list", "v*", "--sort=-version:refname").decode().split()
    if not tags:
        pytest.skip("there is no release yet; SPILLWAY_RELEASED names a revision")
    return tags[0]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True, cwd=ROOT).stdout  # noqa: S603, S607  # ours


def unpack(revision: str, directory: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", revision, "libs", "services"))) as tar:
        tar.extractall(directory, filter="data")


def judge(rounds: list[Round]) -> None:
    heads = "tier       restarts  seconds  requests  failures  streams  ended early  jobs  lost  waited"
    print("\n".join(["", heads, *map(str, rounds)]))  # noqa: T201  # what the test is for
    judged = [one.tally for one in rounds if not one.says_nothing]
    assert [(tally.tier, tally.failures, tally.cut, tally.lost) for tally in judged if not tally.is_clean] == []
    assert {tally.tier for tally in judged} == set(TIERS), "three rounds of a tier failed, if on a busy machine"
    assert all(tally.requests for tally in judged)
    assert sum(tally.streams for tally in judged) > len(judged)
    assert sum(tally.jobs for tally in judged) > 0


async def roll(fleet: Fleet, edge: Edge, tier: str, *, replicas: int) -> Round:
    tally = edge.tally = Tally(tier)
    members = fleet.members[tier][:replicas]  # the oldest: who is restarted goes to the end
    began = time.monotonic()
    worst: list[float] = [0]
    watching = asyncio.create_task(watch(fleet, worst))
    for member in members:
        await fleet.restart(member)
    edge.tally = Tally("between")
    await until(lambda: not tally.under_way, within_s=60)
    await end(watching)
    return Round(tally, len(members), time.monotonic() - began, max(worst))


async def watch(fleet: Fleet, worst: list[float]) -> None:
    """Note for each second how long the one waited that waited longest; those that only start may wait."""
    before = fleet.waited_s()
    while True:
        await asyncio.sleep(1)
        now = fleet.waited_s()
        worst.append(max((now[pid] - before[pid] for pid in now.keys() & before.keys()), default=0))
        before = now
