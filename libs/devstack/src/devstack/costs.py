"""What one request costs each part: the one table behind `./justw capacity` and docs/scaling.md.

CPU and memory were measured with `./justw bench` on the machine of docs/scaling.md: trust the ratios, measure on yours.
Calls to stores and connections are counted again by tests/integration/test_costs.py, so that they cannot go stale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

MEASURED_ON = "2026-11-24"

Kind = Literal["hit", "miss", "stream", "job"]
KINDS: tuple[Kind, ...] = ("hit", "miss", "stream", "job")
SERVICES = ("gateway", "inference", "cache", "jobs", "worker")
STORES = ("state", "limits", "cache")


@dataclass(frozen=True)
class Cost:
    """Of one request, by part. CPU is milliseconds of one core, user and system time.

    A job's are those of accepting, running and showing it once; what its replay asks of the other services is a miss.
    """

    cpu_ms: Mapping[str, float]
    chunk_cpu_ms: Mapping[str, float] = field(default_factory=dict)
    """For each chunk of a stream that comes by itself."""
    calls: Mapping[str, float] = field(default_factory=dict)
    """Scripts that run in each store, for a key with limits."""
    connections: Mapping[str, int] = field(default_factory=dict)
    """That a service holds while the request is open: its caller's and its own. Those to stores are pooled."""


COSTS: Mapping[Kind, Cost] = {
    "hit": Cost(
        cpu_ms={"gateway": 1.07, "cache": 0.54},
        calls={"limits": 2, "cache": 1},
        connections={"gateway": 2, "cache": 1},
    ),
    "miss": Cost(
        cpu_ms={"gateway": 2.09, "inference": 1.40, "cache": 1.16},
        calls={"limits": 2, "cache": 2},
        connections={"gateway": 3, "inference": 2, "cache": 1},
    ),
    "stream": Cost(
        cpu_ms={"gateway": 2.93, "inference": 2.02, "cache": 1.16},
        chunk_cpu_ms={"gateway": 0.081, "inference": 0.075},
        calls={"limits": 2, "cache": 2},
        connections={"gateway": 3, "inference": 2, "cache": 1},
    ),
    "job": Cost(
        cpu_ms={"gateway": 1.07, "jobs": 0.10, "worker": 1.70},
        calls={"state": 4},
        connections={"worker": 1},
    ),
}

LIMITS_CPU_MS = 0.2
"""Of the gateway, for a key with limits: one script through redis-py; the second goes with others."""
OPEN_CPU_MS_PER_S = {"gateway": 0.5, "cache": 0.54}
"""While an answer is under way that others may follow: its leader shows the cache once a second that it lives."""
OPEN_CALLS_PER_S = {"cache": 2.0, "limits": 0.1}
"""The same in scripts: the lease of a flight is renewed twice with each sign of life, a place in a limit each 10 s."""
QUIET_S = 0.25
"""An answer that comes sooner is not attended. Source: docs/adr/0015."""

KEY_READS = 2
KEY_FRESH_S = 10
"""Each gateway reads the records of a key and of its tenant again after this time. Source: docs/adr/0020."""

STORE_CALL_CPU_MS = {"state": 0.035, "limits": 0.06, "cache": 0.035}
"""Of the store's one thread."""

IDLE_MB = {"gateway": 77, "inference": 80, "cache": 59, "jobs": 49, "worker": 62}
OPEN_KB = {"gateway": 80, "inference": 80}
"""For each open stream of a prompt of 1.5 KB, its connections included; the cache was not seen to need more."""

STORE_IDLE_MB = 7
STORE_CONNECTION_KB = 17
"""Of one that is in use, its buffers included."""
ENTRY_BYTES: Mapping[Kind, tuple[float, float]] = {"miss": (500, 5.3), "stream": (450, 6.4)}
"""In the cache: of a stored answer, and more for each token of it, which of a stream are its events, deflated."""
FLIGHT_BYTES = (400, 267)
"""Of a stream that is under way, or has just ended: its events as they came, for its followers."""
MOST_ENTRY_BYTES = 256 * 1024
"""A larger answer is not stored. Source: GATEWAY_MAX_ENTRY_BYTES, as ENTRY_LIFE_S: GATEWAY_ENTRY_TTL_S."""
MOST_EVENTS_BYTES = 8 * MOST_ENTRY_BYTES
"""Nor is a stream of more. Source: gateway.caching.entry_writer."""
ENTRY_LIFE_S = 3_600
FLIGHT_LEFT_S = 5
"""So long a stream's events are kept for its followers after its end. Source: cache.flights."""
JOB_BYTES = (2_500, 5.0)
"""In the state store: a finished job with its indexes, and more for each token of its result."""
JOB_LIFE_S = 86_400
KEY_BYTES = 600
USAGE_BYTES = 240
"""In the limits store: what a key used on one day of one model."""
USAGE_DAYS = 400
MARK_BYTES = 100
"""In the limits store, of each call with limits: that it was settled."""
MARK_LIFE_S = 300

MOST_STORE_CONNECTIONS = 10_000
"""Of a Valkey by default: maxclients."""
MOST_OPEN = {"gateway": 512, "worker": 16}
"""That one process takes by its settings: GATEWAY_MAX_CONCURRENCY for each model, WORKER_CONCURRENCY."""
STORE_CONNECTIONS = {
    "gateway": {"state": 32, "limits": 32},
    "cache": {"cache": 33},
    "jobs": {"state": 33},
    "worker": {"state": 34},
}
"""The most that one process opens: pools of 32, and what waits for a bell or a hint."""
