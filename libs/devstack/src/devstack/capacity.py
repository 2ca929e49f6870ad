"""`capacity`: how many replicas, cores and connections a load needs, and what is full first. A model, no measurement.

Work is counted, not queued: CPU is the sum of costs by rate; what is open at once, rate times duration (Little's law).
Source of every cost: `devstack.costs`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devstack import costs
from devstack.errors import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_ABOUT = {
    "users": "who use it at the same time",
    "think_s": "seconds between two requests of one user, the answer included",
    "requests_per_s": "instead of users",
    "hit_ratio": "share that the cache answers",
    "stream_share": "share of the rest that is streamed",
    "job_share": "share of all requests that are jobs",
    "answer_s": "seconds that the model takes for an answer in one piece, a job's included",
    "stream_s": "seconds that a stream takes",
    "chunks": "of a stream; an answer in one piece has as many tokens",
    "keys": "API keys that are in use at the same time",
    "busy": "how much of a core, or of a process's places, is to be in use",
    "core_speed": "of one of your cores, in those of docs/scaling.md",
}
LEAST_REPLICAS = 2
"""So that one may be restarted."""


@dataclass(frozen=True)
class Load:
    """Shares are between 0 and 1. Of what the cache does not answer, `stream_share` is streamed."""

    users: int = 10_000
    think_s: float = 30.0
    """Between two requests of one user, the answer included."""
    requests_per_s: float | None = None
    """Instead of users."""
    hit_ratio: float = 0.2
    stream_share: float = 0.5
    job_share: float = 0.0
    """Of all requests; the others are those of people who wait."""
    answer_s: float = 3.0
    """How long the model takes for an answer in one piece, a job's included."""
    stream_s: float = 8.0
    chunks: int = 200
    """Of a stream; an answer in one piece has as many tokens."""
    keys: int = 100
    """In use at the same time."""
    busy: float = 0.6
    """How much of a core, or of a process's places, is to be in use."""
    core_speed: float = 1.0
    """Of one of your cores, in those of docs/scaling.md."""

    @property
    def rate(self) -> float:
        return self.users / self.think_s if self.requests_per_s is None else self.requests_per_s

    def rates(self) -> dict[costs.Kind, float]:
        """Requests a second by kind. A job is submitted, and its replay is a miss."""
        jobs = self.rate * self.job_share
        hits = (self.rate - jobs) * self.hit_ratio
        asked = self.rate - jobs - hits
        streams = asked * self.stream_share
        return {"hit": hits, "miss": asked - streams + jobs, "stream": streams, "job": jobs}


@dataclass(frozen=True)
class Need:
    """Of one service or store, for the whole load."""

    part: str
    cores: float
    open: float
    """Requests at once."""
    replicas: int
    connections: float
    memory_mb: float
    calls_per_s: float
    """Only of stores."""
    full_at: float
    """Requests a second, of this mix, with which one process is at its end."""
    full_of: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One for each field of `Load`."""
    for field in dataclasses.fields(Load):
        kind = int if isinstance(field.default, int) else float
        shown = _ABOUT[field.name] + ("" if field.default is None else f" ({field.default:g})")
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=kind, metavar="N", default=field.default, help=shown)


def load_of(options: argparse.Namespace) -> Load:
    """Raises `CommandError` that names an argument which is out of bounds."""
    load = Load(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Load)})
    for field in dataclasses.fields(load):
        value = getattr(load, field.name)
        is_share = field.name in ("hit_ratio", "stream_share", "job_share", "busy")
        is_needed = field.name in ("users", "think_s", "requests_per_s", "busy", "core_speed")
        if value is not None and not (0 <= value <= (1 if is_share else math.inf) and (value or not is_needed)):
            bounds = "between 0 and 1" if is_share else "positive" if is_needed else "not negative"
            raise CommandError(f"--{field.name.replace('_', '-')} must be {bounds}, not {value:g}")
    return load


def plan(load: Load) -> list[Need]:
    """One for each service, then one for each store."""
    services = [_service(part, load) for part in costs.SERVICES]
    replicas = {need.part: need.replicas for need in services}
    return services + [_store(store, load, replicas) for store in costs.STORES]


def first(needs: Iterable[Need]) -> Need:
    """The part of which one process is full at the lowest rate."""
    return min(needs, key=lambda need: need.full_at)


def _seconds(kind: costs.Kind, load: Load) -> float:
    return {"hit": 0.01, "miss": load.answer_s, "stream": load.stream_s, "job": load.answer_s}[kind]


def _service(part: str, load: Load) -> Need:
    cpu_ms = open_ = held = 0.0
    for kind, rate in load.rates().items():
        cost, seconds = costs.COSTS[kind], _seconds(kind, load)
        each = cost.cpu_ms.get(part, 0) + cost.chunk_cpu_ms.get(part, 0) * load.chunks
        if kind in ("miss", "stream"):
            each += costs.OPEN_CPU_MS_PER_S.get(part, 0) * max(0, seconds - costs.QUIET_S)
        if part == "gateway" and kind != "job":
            each += costs.LIMITS_CPU_MS
        cpu_ms += rate * each
        if part in cost.connections:
            open_ += rate * seconds
            held += rate * seconds * cost.connections[part]
    cores = cpu_ms / 1000 / load.core_speed
    limits = {"CPU": cores, "open requests": open_ / costs.MOST_OPEN[part] if part in costs.MOST_OPEN else 0}
    replicas = max(_replicas(need, load) for need in limits.values())
    memory_mb = replicas * costs.IDLE_MB[part] + open_ * costs.OPEN_KB.get(part, 0) / 1024
    stores = replicas * sum(costs.STORE_CONNECTIONS.get(part, {}).values())
    return Need(part, cores, open_, replicas, held + stores, memory_mb, 0, *_full(limits, load))


def _store(store: str, load: Load, replicas: dict[str, int]) -> Need:
    calls = 0.0 if store != "state" else load.keys * replicas["gateway"] * costs.KEY_READS / costs.KEY_FRESH_S
    for kind, rate in load.rates().items():
        each = costs.COSTS[kind].calls.get(store, 0)
        if kind in ("miss", "stream"):
            each += costs.OPEN_CALLS_PER_S.get(store, 0) * max(0, _seconds(kind, load) - costs.QUIET_S)
        calls += rate * each
    cores = calls * costs.STORE_CALL_CPU_MS[store] / 1000 / load.core_speed
    connections = sum(count * costs.STORE_CONNECTIONS.get(part, {}).get(store, 0) for part, count in replicas.items())
    limits = {"CPU": cores, "connections": connections / costs.MOST_STORE_CONNECTIONS}
    shards = max(1, *(math.ceil(need / load.busy) for need in limits.values()))
    memory_mb = (
        shards * costs.STORE_IDLE_MB + connections * costs.STORE_CONNECTION_KB / 1024 + _kept_bytes(store, load) / 2**20
    )
    return Need(f"{store} store", cores, 0, shards, connections, memory_mb, calls, *_full(limits, load))


def _kept_bytes(store: str, load: Load) -> float:
    """Once everything has lived as long as it may, and no two answers are alike: the cache forgets when it is full."""
    rates = load.rates()
    if store == "state":
        return load.keys * costs.KEY_BYTES + rates["job"] * costs.JOB_LIFE_S * _of_tokens(costs.JOB_BYTES, load)
    if store == "limits":
        marks = (load.rate - rates["job"]) * costs.MARK_LIFE_S * costs.MARK_BYTES
        return marks + load.keys * costs.USAGE_DAYS * costs.USAGE_BYTES
    events = _of_tokens(costs.FLIGHT_BYTES, load)
    kept = rates["stream"] * (load.stream_s + costs.FLIGHT_LEFT_S) * events
    for kind, size in costs.ENTRY_BYTES.items():
        entry = _of_tokens(size, load)
        is_kept = entry <= costs.MOST_ENTRY_BYTES and (kind != "stream" or events <= costs.MOST_EVENTS_BYTES)
        kept += rates[kind] * costs.ENTRY_LIFE_S * entry if is_kept else 0
    return kept


def _of_tokens(size: tuple[float, float], load: Load) -> float:
    return size[0] + size[1] * load.chunks


def _replicas(need: float, load: Load) -> int:
    return max(LEAST_REPLICAS, math.ceil(need / load.busy))


def _full(limits: dict[str, float], load: Load) -> tuple[float, str]:
    what, most = max(limits.items(), key=lambda limit: limit[1])
    return (load.rate / most, what) if most else (math.inf, "nothing")


def render(load: Load) -> str:
    """The plan as a table, and what follows from it."""
    needs = plan(load)
    rates = load.rates()
    answers = f"{rates['hit']:,.0f} hits, {rates['miss']:,.0f} answers of {load.answer_s:g} s"
    streams = f"{rates['stream']:,.0f} streams of {load.stream_s:g} s and {load.chunks} chunks"
    lines = [
        f"{load.rate:,.0f} requests/s: {answers}, {streams}, {rates['job']:,.0f} jobs",
        f"costs of {costs.MEASURED_ON}; {load.busy:.0%} busy, cores {load.core_speed:g} times as fast",
        "",
        "part          replicas   cores     open  connections  memory MB  calls/s  one is full at",
    ]
    for need in needs:
        full = f"{need.full_at:,.0f}/s ({need.full_of})" if math.isfinite(need.full_at) else "-"
        lines.append(
            f"{need.part:<13} {need.replicas:>8} {need.cores:>7.2f} {need.open:>8,.0f} {need.connections:>12,.0f}"
            f" {need.memory_mb:>10,.0f} {need.calls_per_s:>8,.0f}  {full}"
        )
    bottleneck = first(needs)
    upstream = sum(rates[kind] * _seconds(kind, load) for kind in ("miss", "stream"))
    services = needs[: len(costs.SERVICES)]
    processes = sum(need.replicas for need in services)
    cores, memory_gb = sum(need.cores for need in needs), sum(need.memory_mb for need in services) / 1024
    lines += [
        "",
        f"in all: {cores:,.1f} cores' work, {processes} processes of services, {memory_gb:,.1f} GB",
        "the cache store holds that much if it may; with less it forgets what is asked for least",
        f"the model answers {rates['miss'] + rates['stream']:,.0f} calls/s, {upstream:,.0f} at once",
        f"full first: {bottleneck.part}, {bottleneck.full_of}: {bottleneck.full_at:,.0f} requests/s a process",
    ]
    return "\n".join(lines)
