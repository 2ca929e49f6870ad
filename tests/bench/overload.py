"""Offers 0.5 to 10 times what the stack can do, open loop, and prints goodput, latencies, refusals and memory.

Two lanes, because two things run out: `slots` (an upstream that takes its time: the gateway's slots are full while its
processors are not) and `cpu` (an instant upstream: the processes are the bottleneck). The capacity of each is measured
first, in a closed loop. Before them `refusals`: what one of each kind costs. Platform and load have processors of their
own. A row is marked (!) and judges nothing when the generator itself was late.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import refusals, stack
from bench.load_process import drive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MULTIPLES = (0.5, 1, 2, 5, 10)
SLOTS = 16
SETTLE_S = 2
"""From the beginning of a step, not counted: what a sudden overload lets in before it is seen is worked off then."""
LATE_MS = 5
"""A generator that is later than this at p99 measures itself."""
LEAST_GOODPUT = 0.9
"""Of its best."""
MOST_REFUSED_MS = 50
MOST_TIMES_CALM = 2
"""Accepted answers at p99, against half the capacity."""
MOST_CPU_MS = 1
REFUSALS = "refusals"


@dataclass(frozen=True)
class Lane:
    name: str
    prompt: str
    connections: int
    """Of the closed loop that measures the capacity."""
    about: int
    """Answers a second, so that this takes as long as a step."""
    settings: dict[str, str]


LANES = (
    Lane("slots", "[[sim ttft_ms=400]] question {}", SLOTS, 40, {"GATEWAY_MAX_CONCURRENCY": str(SLOTS)}),
    Lane("cpu", "question {}", 32, 150, {}),
)


def main(argv: Sequence[str]) -> None:
    asked = _arguments(argv)
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("bench reads CPU time and memory from Linux's /proc, which this system does not have")
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    print(f"{machine}; {asked.seconds:g} s a step, after {SETTLE_S}")  # noqa: T201  # the report
    if REFUSALS in asked.lanes:
        _print(refusals.report(asked.tracing, asked.refusals))
    for lane in (lane for lane in LANES if lane.name in asked.lanes):
        _print(_measure(lane, asked))


def _print(lines: Iterable[str]) -> None:
    print()  # noqa: T201  # the report
    for line in lines:
        print(line, flush=True)  # noqa: T201  # as above


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./justw bench overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each step (10)")
    parser.add_argument("--tracing", default="0.1", help="off, or the share of requests that are traced (0.1)")
    lanes = [REFUSALS, *(lane.name for lane in LANES)]
    parser.add_argument("--lanes", nargs="+", choices=lanes, default=lanes, metavar="LANE", help=", ".join(lanes))
    parser.add_argument("--refusals", type=int, default=2000, help="of each kind, whose price is measured (2000)")
    parser.add_argument("--multiples", nargs="+", type=float, default=MULTIPLES, help="of the capacity (0.5 1 2 5 10)")
    return parser.parse_args(argv)


def _measure(lane: Lane, asked: argparse.Namespace) -> Iterable[str]:
    with stack.running(asked.tracing, stack.Cores.apart(), **lane.settings) as running:
        _drive(lane, running, requests=2 * lane.about, rate=None)  # warm
        calm_cpu_ms = running.cpu_ms()
        calm = _drive(lane, running, requests=round(lane.about * asked.seconds), rate=None)
        capacity = calm["answers"] / calm["seconds"]
        accepted_ms = (running.cpu_ms()["gateway"] - calm_cpu_ms["gateway"]) / calm["answers"]
        yield f"### {lane.name}: capacity {capacity:.0f}/s (closed loop), gateway {accepted_ms:.2f} CPU ms an answer"
        yield ""
        yield f"| {' | '.join(_COLUMNS)} |"
        yield f"|{'---|' * len(_COLUMNS)}"
        steps: list[Step] = []
        for multiple in asked.multiples:
            rate = capacity * multiple
            before = running.cpu_ms()["gateway"]
            load = _drive(lane, running, requests=round(rate * (asked.seconds + SETTLE_S)), rate=rate)
            spent_ms = running.cpu_ms()["gateway"] - before - load["outcomes"].get("answers", 0) * accepted_ms
            steps.append(Step(multiple, load, max(spent_ms, 0), running.memory_mb()["gateway"]))
            yield f"| {' | '.join(steps[-1].cells(steps))} |"
        yield ""
        yield _verdict(steps)


_COLUMNS = (
    "offered", "goodput", "of the best", "accepted p50 ms", "p99 ms", "times calm", "refused", "refused p50 ms",
    "p99 ms", "CPU ms each", "gateway MB", "errors", "generator late p99 ms",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    multiple: float
    load: dict[str, Any]
    refusals_ms: float
    """CPU time of the gateway that its answers do not account for."""
    memory_mb: float

    @property
    def goodput(self) -> float:
        return float(self.load["answers"]) / float(self.load["seconds"])

    @property
    def p99_ms(self) -> float:
        return float(self.load["whole_ms"]["p99"])

    @property
    def each_ms(self) -> float:
        return self.refusals_ms / float(max(self.load["outcomes"].get("refused", 0), 1))

    @property
    def is_valid(self) -> bool:
        return bool(self.load["late_ms"]["p99"] <= LATE_MS)

    def cells(self, steps: Sequence[Step]) -> list[str]:
        """`steps`: those until now, the calmest first."""
        load, refused = self.load, self.load["refused"]
        return [
            f"{self.multiple:g} x",
            f"{self.goodput:.0f}/s",
            f"{self.goodput / max(step.goodput for step in steps):.0%}",
            f"{load['whole_ms']['p50']:.0f}",
            f"{self.p99_ms:.0f}",
            f"{self.p99_ms / max(steps[0].p99_ms, 0.001):.1f}",
            f"{refused / load['seconds']:.0f}/s",
            f"{load['refused_ms']['p50']:.1f}",
            f"{load['refused_ms']['p99']:.1f}",
            f"{self.each_ms:.3f}" if refused else "-",
            f"{self.memory_mb:.0f}",
            ", ".join(f"{count} {why}" for why, count in load["errors"].items()) or "0",
            f"{load['late_ms']['p99']:.1f}" + ("" if self.is_valid else " (!)"),
        ]


def _verdict(steps: Sequence[Step]) -> str:
    """Of the rows that are worth one."""
    valid = [step for step in steps if step.is_valid]
    if not valid:
        return "No verdict: the generator was late in every row."
    last, best = valid[-1], max(step.goodput for step in valid)
    beyond = [step for step in valid if step.multiple > 1] or valid
    judged = {
        f"goodput at {last.multiple:g} x: {last.goodput / best:.0%} of its best": last.goodput >= LEAST_GOODPUT * best,
        f"refused within {max(step.load['refused_ms']['p99'] for step in beyond):.0f} ms (p99)": all(
            step.load["refused_ms"]["p99"] <= MOST_REFUSED_MS for step in beyond
        ),
        f"accepted p99 {max(step.p99_ms for step in valid) / valid[0].p99_ms:.1f} times the calmest": all(
            step.p99_ms <= MOST_TIMES_CALM * valid[0].p99_ms for step in valid
        ),
        f"{max(step.each_ms for step in beyond):.2f} ms of CPU a refusal": all(
            step.each_ms < MOST_CPU_MS for step in beyond
        ),
        f"{sum(sum(step.load['errors'].values()) for step in valid)} errors": not any(
            step.load["errors"] for step in valid
        ),
    }
    return "; ".join(f"{what}{'' if is_kept else ' (MISSED)'}" for what, is_kept in judged.items())


def _drive(lane: Lane, running: stack.Stack, *, requests: int, rate: float | None) -> dict[str, Any]:
    order = {
        "port": running.gateway_port,
        "path": "/v1/chat/completions",
        "key": running.key,
        "model": stack.MODEL,
        "prompt": f"{lane.prompt} of {os.urandom(4).hex()}",
        "is_stream": False,
        "requests": requests,
        "shared": 1,
        "connections": lane.connections,
        "rate": rate,
        "counts_from_s": 0 if rate is None else SETTLE_S,
        "cache": None,
        "events": 0,
        "refusals": ["429", "503"],
    }
    return drive(order, stack.Cores.apart())
