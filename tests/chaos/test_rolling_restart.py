"""Every tier is restarted, replica by replica, under load with live streams, and nobody notices."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support.chaos import IS_LONG, times
from support.edge import Edge, Tally
from support.fleet import TIERS, Fleet
from support.platform import make_key

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]

STREAM_S = times(1, 8)
DRAIN_DELAY_S = times(2, 10)


async def test_a_rolling_restart_of_every_tier_loses_no_request_and_ends_no_stream(tmp_path: Path) -> None:
    rows: list[tuple[Tally, int, float]] = []
    async with Fleet(tmp_path, drain_delay_s=DRAIN_DELAY_S, drain_timeout_s=20) as fleet:
        key = make_key(fleet.services["gateway"].pick(), "roller")
        async with Edge(fleet.services["gateway"], key, rate=8, stream_s=STREAM_S) as edge:
            for _ in range(times(1, 3)):
                for tier in TIERS:
                    edge.tally, began = Tally(tier), time.monotonic()
                    restarted = fleet.members[tier][:] if IS_LONG else fleet.members[tier][:1]
                    for member in restarted:
                        await fleet.restart(member)
                    rows.append((edge.tally, len(restarted), time.monotonic() - began))
    print(table(rows))  # noqa: T201  # what the test is for
    assert [(tally.tier, tally.failures, tally.cut, tally.lost) for tally, _, _ in rows] == [
        (tally.tier, [], [], []) for tally, _, _ in rows
    ]
    assert all(tally.requests for tally, _, _ in rows)
    assert sum(tally.streams for tally, _, _ in rows) > len(rows)
    assert sum(tally.jobs for tally, _, _ in rows) > 0


def table(rows: list[tuple[Tally, int, float]]) -> str:
    lines = ["", "tier       restarts  seconds  requests  failures  streams  ended early  jobs  lost"]
    lines += [
        f"{tally.tier:<10} {restarts:>8} {seconds:>8.1f} {tally.requests:>9} {len(tally.failures):>9}"
        f" {tally.streams:>8} {len(tally.cut):>12} {tally.jobs:>5} {len(tally.lost):>5}"
        for tally, restarts, seconds in rows
    ]
    return "\n".join(lines)
