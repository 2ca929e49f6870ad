"""Runs the lanes in interleaved rounds against one stack and prints medians with their spread."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import stack
from bench.load_process import drive
from bench.yardstick import yardstick_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_CHUNKS = 100
_SETTLE_S = 0.3
"""After a lane: what it left to do in the background (entries to store, spans to send) is its cost as well."""
_EMBEDDING = "[[sim ttft_ms=20]] text {}"
"""At an upstream that takes its time, as they do: an instant one leaves nothing to join."""
_TRACED = {"off-again": "off, a second stack", "tenth": "one request in ten", "every": "every request"}
_PADDING = "All work and no play makes a dull prompt. "


@dataclasses.dataclass(frozen=True)
class Lane:
    name: str
    requests: int
    """A round."""
    prompt: str
    cache: str | None
    is_stream: bool = False
    is_direct: bool = False
    """Straight to the simulator: what of the latencies is not ours."""
    shared: int = 1
    """So many requests in a row are identical."""
    connections: int | None = None
    """Where it has to be a certain number, whatever the command line says."""
    warm_up: int | None = None
    """Requests before the first round; a fifth of a round's otherwise."""
    is_limited: bool = False
    """With a key that has limits."""
    relay: str | None = None
    """Through a bare relay instead of our services."""
    tracing: str | None = None
    """`off`, or the share of its requests that are traced, by a stack of its own; None: as the command line says."""
    model: str = stack.MODEL
    path: str = "/v1/chat/completions"


LANES = (
    Lane("miss", 1000, "round {round}, question {}", "miss"),
    Lane("miss-limited", 1000, "round {round}, limited question {}", "miss", is_limited=True),
    Lane("hit", 2000, "always the same question", "hit"),
    Lane("hit-limited", 2000, "always the same question", "hit", is_limited=True),
    Lane("hit-stream", 1000, "[[sim tokens=100]] always the same stream", "hit", is_stream=True),
    Lane("hit-far", 1500, "one of many questions, {}", "hit", warm_up=1500),
    Lane("burst", 5000, "[[sim ttft_ms=200]] round {round}, prompt {}", None, shared=100, connections=100),
    Lane("stream", 400, "[[sim tokens=100]] round {round}, question {}", "miss", is_stream=True),
    Lane("paced", 160, "[[sim tokens=100 itl_ms=10]] round {round}, question {}", "miss", is_stream=True),
    Lane("direct", 1000, "question {}", None, is_direct=True),
    Lane("embed", 800, _EMBEDDING, None, model=stack.EMBED, path="/v1/embeddings"),
    Lane("embed-alone", 800, _EMBEDDING, None, model=stack.EMBED_ALONE, path="/v1/embeddings"),
)
_RELAYS = ("sockets", "libraries")
BARE_LANES = tuple(
    Lane(f"{relay}-{kind}", requests, prompt, None, is_stream=kind != "plain", relay=relay)
    for relay in _RELAYS
    for kind, requests, prompt in (
        ("plain", 1000, "question {}"),
        ("stream", 400, "[[sim tokens=100]] question {}"),
        ("paced", 160, "[[sim tokens=100 itl_ms=10]] question {}"),
    )
)
"""The floor of ours: see bare_relay.py. They are measured, beside our own streams, when named: `chunks`."""
TRACE_LANES = tuple(
    Lane(f"trace-{kind}-{word}", requests, prompt, outcome, is_stream=kind == "stream", tracing=tracing)
    for kind, requests, prompt, outcome in (
        ("miss", 1000, "round {round}, question {}", "miss"),
        ("hit", 2000, "always the same question", "hit"),
        ("stream", 400, "[[sim tokens=100]] round {round}, question {}", "miss"),
    )
    for word, tracing in (("off", "off"), ("off-again", "off"), ("tenth", "0.1"), ("every", "1"))
)
"""What tracing costs. Each share has a stack of its own, all of them run at once, and one lane at a time: so rounds are
interleaved. The second `off` is how far two stacks that are the same differ. They are measured when named: `trace`.
"""

ALL_LANES = (*LANES, *BARE_LANES, *TRACE_LANES)
_GROUPS = {
    "trace": [lane.name for lane in TRACE_LANES],
    "chunks": ["miss", "stream", "paced", *(lane.name for lane in BARE_LANES)],
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """One lane in one round."""

    cpu_ms: dict[str, float]
    """Per answer, by process."""
    system_ms: dict[str, float]
    """The kernel's part of it."""
    load: dict[str, Any]
    upstream_calls: int
    yardstick_ms: float
    """How slow the machine was: see `bench.yardstick`."""

    @property
    def total_ms(self) -> float:
        return sum(self.cpu_ms.values())


def main() -> None:
    asked = _arguments()
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("bench reads CPU time and memory from Linux's /proc, which this system does not have")
    starts_s = [_start_s(asked.tracing) for _ in range(asked.starts - 1)]
    lanes = [lane for lane in ALL_LANES if lane.name in asked.lanes]
    seen: dict[str, list[Seen]] = {lane.name: [] for lane in lanes}
    with contextlib.ExitStack() as started:
        stacks = _stacks(started, lanes, asked)
        starts_s += [one.start_s for one in stacks.values()]
        for lane in lanes:
            _drive(lane, _behind(lane, stacks), asked, round_=0, requests=lane.warm_up or max(lane.requests // 5, 50))
        for round_ in range(1, asked.rounds + 1):
            for lane in lanes if round_ % 2 else reversed(lanes):
                seen[lane.name].append(_measure(lane, _behind(lane, stacks), asked, round_))
                print(f"round {round_}: {lane.name} {seen[lane.name][-1].total_ms:.2f} ms", file=sys.stderr)  # noqa: T201  # progress
    with stack.running(asked.tracing) as idle:
        time.sleep(_SETTLE_S)
        memory_mb = idle.memory_mb()
        starts_s.append(idle.start_s)
    print("\n".join(_report(asked, seen, memory_mb, starts_s)))  # noqa: T201  # the report


def _stack_of(lane: Lane) -> str:
    return lane.name.split("-", 2)[2] if lane.tracing else ""


def _stacks(started: contextlib.ExitStack, lanes: Iterable[Lane], asked: argparse.Namespace) -> dict[str, stack.Stack]:
    """One for all lanes that say nothing of tracing, and one for each share of those that do."""
    tracing = {_stack_of(lane): lane.tracing or asked.tracing for lane in lanes}
    relays = {lane.relay for lane in lanes if lane.relay}
    return {
        name: started.enter_context(stack.running(share, relays=() if name else relays))
        for name, share in tracing.items()
    }


def _behind(lane: Lane, stacks: Mapping[str, stack.Stack]) -> stack.Stack:
    """The stack that the lane is driven against."""
    running = stacks[_stack_of(lane)]
    return running.behind(lane.relay) if lane.relay else running


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./justw bench", description=__doc__,
        epilog="Others: bench overload and bench jobs, which have a --help too, and bench metrics.",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="of each lane (5)")
    parser.add_argument("--connections", type=int, default=16, help="of the closed loop: 1, 10, 64, ... (16)")
    parser.add_argument("--rate", type=float, help="requests/s: open loop, latency from the intended send time")
    parser.add_argument("--tracing", default="0.1", help="off, or the share of requests that are traced (0.1)")
    parser.add_argument("--body-bytes", type=int, default=100, help="size of the prompt: 100, 12000, 220000 (100)")
    parser.add_argument(
        "--lanes", nargs="+", choices=[*(lane.name for lane in ALL_LANES), *_GROUPS],
        default=[lane.name for lane in LANES], metavar="LANE",
        help=f"{', '.join(lane.name for lane in LANES)} (all); trace: what tracing costs, off, a tenth and every "
        "request beside each other; chunks: what a chunk of a stream costs, and what it costs relays without any logic",
    )  # fmt: skip
    parser.add_argument("--requests", type=float, default=1, help="multiplies the requests of a round (1)")
    parser.add_argument("--starts", type=int, default=3, help="how often the stack is started to time it (3)")
    asked = parser.parse_args()
    for group in _GROUPS.keys() & set(asked.lanes):
        asked.lanes += _GROUPS[group]
    return asked


def _start_s(tracing: str) -> float:
    with stack.running(tracing) as started:
        return started.start_s


def _measure(lane: Lane, running: stack.Stack, asked: argparse.Namespace, round_: int) -> Seen:
    before_ms = yardstick_ms()
    _, last_call = running.upstream_calls()
    before = running.cpu_ms(), running.system_ms()
    load = _drive(lane, running, asked, round_, round(lane.requests * asked.requests))
    time.sleep(_SETTLE_S)
    after = running.cpu_ms(), running.system_ms()
    cpu_ms, system_ms = (
        {name: (now[name] - then[name]) / max(load["answers"], 1) for name in then}
        for then, now in zip(before, after, strict=True)
    )
    upstream_calls, _ = running.upstream_calls(last_call)
    return Seen(cpu_ms, system_ms, load, upstream_calls, (before_ms + yardstick_ms()) / 2)


def _drive(lane: Lane, running: stack.Stack, asked: argparse.Namespace, round_: int, requests: int) -> dict[str, Any]:
    prompt = lane.prompt.replace("{round}", str(round_))
    order = {
        "port": running.simulator_port if lane.is_direct else running.gateway_port,
        "path": lane.path,
        "key": running.limited_key if lane.is_limited else running.key,
        "model": lane.model,
        "prompt": prompt + " " + (_PADDING * (asked.body_bytes // len(_PADDING) + 1))[: asked.body_bytes - len(prompt)],
        "is_stream": lane.is_stream,
        "requests": requests,
        "connections": lane.connections or asked.connections,
        "shared": lane.shared,
        "rate": asked.rate,
        "cache": None if round_ == 0 else lane.cache,  # the warm-up makes the entry that is hit
        "events": _CHUNKS + 1 if lane.is_stream else 0,
    }
    return drive(order)


def _report(
    asked: argparse.Namespace, seen: dict[str, list[Seen]], memory_mb: dict[str, float], starts_s: list[float]
) -> Iterable[str]:
    loop = f"open loop, {asked.rate:g} requests/s" if asked.rate else f"closed loop, {asked.connections} connections"
    yield f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; {loop};"
    yield f"prompts of {asked.body_bytes} bytes; tracing {asked.tracing}; {asked.rounds} rounds: median (least-most)"
    yield ""
    processes = sorted(memory_mb, key=lambda name: (name.startswith("valkey"), name))
    least_ms = min(one.yardstick_ms for rounds in seen.values() for one in rounds)
    columns = [
        "CPU ms",
        "CPU ms, calm",
        *processes,
        "p50 ms",
        "p99 ms",
        "first byte p99",
        "req/s",
        "upstream calls",
        "errors",
    ]
    yield f"| lane | {' | '.join(columns)} |"
    yield f"|{'---|' * (len(columns) + 1)}"
    for lane, rounds in seen.items():
        errors = sum((Counter(one.load["errors"]) for one in rounds), Counter[str]())
        cells = [
            f"**{_spread(rounds, lambda one: one.total_ms)}**",
            _spread(rounds, lambda one: one.total_ms * least_ms / one.yardstick_ms),
            *(f"{statistics.median(one.cpu_ms.get(name, 0) for one in rounds):.2f}" for name in processes),
            _spread(rounds, lambda one: one.load["whole_ms"]["p50"]),
            _spread(rounds, lambda one: one.load["whole_ms"]["p99"]),
            _spread(rounds, lambda one: one.load["first_byte_ms"]["p99"]),
            _spread(rounds, lambda one: one.load["answers"] / one.load["seconds"], digits=0),
            _spread(rounds, lambda one: one.upstream_calls, digits=0),
            ", ".join(f"{count} {why}" for why, count in errors.items()) or "0",
        ]
        yield f"| {lane} | {' | '.join(cells)} |"
    yield ""
    for rounds in filter(None, [seen.get("burst")]):
        answers, calls = (
            sum(of) for of in zip(*((one.load["answers"], one.upstream_calls) for one in rounds), strict=True)
        )
        yield f"Burst: {answers} answers, {calls} upstream calls, {1 - calls / max(answers, 1):.1%} saved"
    yield from _of_tracing(seen)
    yield from _of_inference(seen)
    yield from _of_chunks(seen)
    yield from _of_batching(seen)
    yardsticks_ms = [one.yardstick_ms for rounds in seen.values() for one in rounds]
    yield f"Yardstick (fixed pure Python): {_spread_of(yardsticks_ms)} ms; 'calm' is scaled to the least of it"
    parts = ", ".join(f"{name} {memory_mb[name]:.0f}" for name in processes)
    yield f"Idle memory (PSS): {sum(memory_mb.values()):.0f} MB ({parts})"
    yield f"Start to first answer: {statistics.median(starts_s):.1f} s ({min(starts_s):.1f}-{max(starts_s):.1f})"


def _of_tracing(seen: dict[str, list[Seen]]) -> Iterable[str]:
    """Throughput and CPU time against the stack that traces nothing, each round by itself."""
    kinds = [kind for kind in ("miss", "hit", "stream") if seen.get(f"trace-{kind}-off")]
    if kinds:
        yield "| tracing | throughput lost | CPU time added |"
        yield "|---|---|---|"
    for kind in kinds:
        plain = seen[f"trace-{kind}-off"]
        for word, shown in _TRACED.items():
            rounds = zip(plain, seen.get(f"trace-{kind}-{word}", ()), strict=False)
            pairs = [(base, one) for base, one in rounds if base.load["answers"] and one.load["answers"]]
            if pairs:
                lost = [100 * (1 - _rate(one) / _rate(base)) for base, one in pairs]
                added = [100 * (one.total_ms / base.total_ms - 1) for base, one in pairs]
                yield f"| {kind}, {shown} | {_spread_of(lost, 1)} % | {_spread_of(added, 1)} % |"
    if kinds:
        yield ""


def _rate(one: Seen) -> float:
    return float(one.load["answers"]) / float(one.load["seconds"])


def _of_inference(seen: dict[str, list[Seen]]) -> Iterable[str]:
    plain = [one.cpu_ms["inference"] for one in seen.get("miss", ())]
    if plain:
        yield f"Inference, a plain answer: {_spread_of(plain)} ms"
        yield ""


def _of_chunks(seen: dict[str, list[Seen]]) -> Iterable[str]:
    """What a chunk adds to an answer, at once and one by one, each round by itself: so both are of one moment."""
    rows = [("gateway", "gateway", "miss", ""), ("inference", "inference", "miss", "")]
    rows += [(f"bare relay: {name}", name, f"{name}-plain", f"{name}-") for name in _RELAYS]
    kinds = ("stream", "paced")
    rows = [row for row in rows if seen.get(row[2]) and all(seen.get(row[3] + kind) for kind in kinds)]
    if rows:
        yield "| a chunk, us of CPU | at once | the kernel's | one by one | the kernel's |"
        yield "|---|---|---|---|---|"
    for shown, process, plain, prefix in rows:
        cells = []
        for kind in kinds:
            rounds = list(zip(seen[prefix + kind], seen[plain], strict=True))
            for part in ("cpu_ms", "system_ms"):
                us = [
                    (getattr(one, part)[process] - getattr(base, part)[process]) * 1000 / _CHUNKS
                    for one, base in rounds
                ]
                cells.append(_spread_of(us, 1))
        yield f"| {shown} | {' | '.join(cells)} |"
    if rows:
        yield ""


def _of_batching(seen: dict[str, list[Seen]]) -> Iterable[str]:
    lanes = {name: seen[name] for name in ("embed", "embed-alone") if seen.get(name)}
    if lanes:
        yield "| embeddings | requests | upstream calls | saved | p50 ms | p99 ms | CPU ms |"
        yield "|---|---|---|---|---|---|---|"
    for name, rounds in lanes.items():
        answers, calls = sum(one.load["answers"] for one in rounds), sum(one.upstream_calls for one in rounds)
        cells = [
            "joined" if name == "embed" else "alone", str(answers), str(calls), f"{1 - calls / max(answers, 1):.0%}",
            _spread(rounds, lambda one: one.load["whole_ms"]["p50"]),
            _spread(rounds, lambda one: one.load["whole_ms"]["p99"]),
            _spread(rounds, lambda one: one.total_ms),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    if lanes:
        yield ""


def _spread(rounds: list[Seen], of: Callable[[Seen], float], digits: int = 2) -> str:
    return _spread_of([of(one) for one in rounds], digits)


def _spread_of(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
