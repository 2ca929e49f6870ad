"""Offers 0.5 to 10 times what the stack can do, open loop, and prints goodput, latencies, refusals and memory.

Two lanes, because two things run out: `cpu` (an instant upstream: the processes are the bottleneck) and `slots` (an
upstream that takes its time: the gateway's slots are). The capacity of each is measured first, in a closed loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MULTIPLES = (0.5, 1, 2, 5, 10)
SLOTS = 32
LATE_MS = 5
"""A generator that is later than this at p99 measures itself."""


@dataclass(frozen=True)
class Lane:
    name: str
    prompt: str
    connections: int
    """Of the closed loop that measures the capacity."""
    settings: dict[str, str]


LANES = (
    Lane("cpu", "question {}", 32, {}),
    Lane("slots", "[[sim ttft_ms=200]] question {}", SLOTS, {"GATEWAY_MAX_CONCURRENCY": str(SLOTS)}),
)


def main(argv: Sequence[str]) -> None:
    asked = _arguments(argv)
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("bench reads CPU time and memory from Linux's /proc, which this system does not have")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{machine}; {asked.seconds:g} s a step")  # noqa: T201  # the report
    for lane in (lane for lane in LANES if lane.name in asked.lanes):
        print("\n" + "\n".join(_measure(lane, asked)), flush=True)  # noqa: T201  # as above


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./justw bench overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each step (10)")
    parser.add_argument("--tracing", default="0.1", help="off, or the share of requests that are traced (0.1)")
    lanes = [lane.name for lane in LANES]
    parser.add_argument("--lanes", nargs="+", choices=lanes, default=lanes, metavar="LANE", help=" or ".join(lanes))
    parser.add_argument("--multiples", nargs="+", type=float, default=MULTIPLES, help="of the capacity (0.5 1 2 5 10)")
    return parser.parse_args(argv)


def _measure(lane: Lane, asked: argparse.Namespace) -> Iterable[str]:
    with stack.running(asked.tracing, **lane.settings) as running:
        _drive(lane, running, requests=500, rate=None)  # warm
        calm_cpu_ms = running.cpu_ms()
        calm = _drive(lane, running, requests=round(200 * asked.seconds), rate=None)
        capacity = calm["answers"] / calm["seconds"]
        accepted_ms = (running.cpu_ms()["gateway"] - calm_cpu_ms["gateway"]) / calm["answers"]
        yield f"### {lane.name}: capacity {capacity:.0f}/s (closed loop), gateway {accepted_ms:.2f} CPU ms an answer"
        yield ""
        columns = ["offered", "goodput", "of the best", "accepted p50 ms", "p99 ms", "refused", "refused p50 ms"]
        columns += ["p99 ms", "CPU ms each", "gateway MB", "errors", "generator late p99 ms"]
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        best = 0.0
        for multiple in asked.multiples:
            rate = capacity * multiple
            before = running.cpu_ms()["gateway"]
            load = _drive(lane, running, requests=round(rate * asked.seconds), rate=rate)
            spent_ms = running.cpu_ms()["gateway"] - before
            load["goodput"] = load["answers"] / load["seconds"]
            best = max(best, load["goodput"])
            cells = _cells(
                load, multiple, best, spent_ms - load["answers"] * accepted_ms, running.memory_mb()["gateway"]
            )
            yield f"| {' | '.join(cells)} |"


def _cells(load: dict[str, Any], multiple: float, best: float, spent_ms: float, memory_mb: float) -> list[str]:
    refused = load["refused"]
    late_ms = load["late_ms"]["p99"]
    return [
        f"{multiple:g} x",
        f"{load['goodput']:.0f}/s",
        f"{load['goodput'] / best:.0%}",
        f"{load['whole_ms']['p50']:.0f}",
        f"{load['whole_ms']['p99']:.0f}",
        f"{refused / load['seconds']:.0f}/s",
        f"{load['refused_ms']['p50']:.1f}",
        f"{load['refused_ms']['p99']:.1f}",
        f"{max(spent_ms, 0) / refused:.3f}" if refused else "-",
        f"{memory_mb:.0f}",
        ", ".join(f"{count} {why}" for why, count in load["errors"].items()) or "0",
        f"{late_ms:.1f}" + (" (!)" if late_ms > LATE_MS else ""),
    ]


def _drive(lane: Lane, running: stack.Stack, *, requests: int, rate: float | None) -> dict[str, Any]:
    order = {
        "port": running.gateway_port,
        "path": "/v1/chat/completions",
        "key": running.key,
        "model": stack.MODEL,
        "prompt": f"{lane.prompt} of {os.urandom(4).hex()}",
        "is_stream": False,
        "requests": requests,
        "connections": lane.connections,
        "rate": rate,
        "cache": None,
        "events": 0,
        "may_refuse": True,
    }
    generator = subprocess.run(  # noqa: S603  # our own
        [sys.executable, str(Path(__file__).with_name("load.py"))],
        input=json.dumps(order).encode(), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    load: dict[str, Any] = json.loads(generator.stdout)
    return load
