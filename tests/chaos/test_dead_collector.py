"""What a collector costs the callers that is gone or silent: nothing that could be told from a healthy one.

That nobody waits for it, and that a queue of spans is bounded, is under test in `e2e/test_collector.py`; the figures
need minutes, so these are for `./justw chaos` alone.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pytest

from bench import stack
from bench.load_process import drive
from devstack.otlp_sink import Sink
from support.chaos import IS_LONG
from support.faulty_proxy import Fault, faulty_proxy
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not IS_LONG, reason="minutes of load: under ./justw chaos"),
]

ROUNDS = 5
REQUESTS = 1_000
COLLECTORS: Mapping[str, Fault] = {"healthy": "none", "gone": "dead", "silent": "frozen", "healthy again": "none"}
"""The second of the healthy ones tells how far two that are the same differ."""
MOST_RATE_LOST, MOST_P99_ADDED, MOST_MB = 0.03, 0.05, 30


def load(platform: stack.Stack, name: str) -> tuple[float, float]:
    """Answers a second, and p99 in ms, of a closed loop of misses."""
    order: dict[str, Any] = {
        "port": platform.gateway_port, "path": "/v1/chat/completions", "key": platform.key, "model": stack.MODEL,
        "prompt": f"{name} {{}}", "is_stream": False, "shared": 1, "requests": REQUESTS, "connections": 16,
        "rate": None, "cache": "miss", "events": 0,
    }  # fmt: skip
    seen = drive(order, stack.Cores.apart())
    assert seen["answers"] >= 0.999 * REQUESTS, seen["errors"]
    return seen["answers"] / seen["seconds"], seen["whole_ms"]["p99"]


def test_a_collector_that_is_gone_or_silent_costs_no_throughput_no_patience_and_little_memory() -> None:
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in COLLECTORS}
    with (
        running(Sink(), lifespan="off") as sink,
        faulty_proxy(sink) as proxy,
        stack.running("0.1", stack.Cores.apart(), OTEL_EXPORTER_OTLP_ENDPOINT=proxy.url) as platform,
    ):
        load(platform, "warm")
        before_mb = platform.memory_mb()
        for round_ in range(ROUNDS):
            for name, fault in COLLECTORS.items():
                proxy.fault = fault
                seen[name].append(load(platform, f"round {round_}, {name}"))
        grown_mb = {name: mb - before_mb[name] for name, mb in platform.memory_mb().items() if name in stack.SERVICES}
    rates = {name: statistics.median(rate for rate, _ in rounds) for name, rounds in seen.items()}
    p99s = {name: statistics.median(p99 for _, p99 in rounds) for name, rounds in seen.items()}
    rate_noise, p99_noise = (abs(1 - of["healthy again"] / of["healthy"]) for of in (rates, p99s))
    for name in COLLECTORS:
        print(f"{name}: {rates[name]:.0f}/s, p99 {p99s[name]:.0f} ms")  # noqa: T201  # the figures
    print(f"grown by {grown_mb} MB; two healthy ones differ by {rate_noise:.1%} and {p99_noise:.1%}")  # noqa: T201
    for name in ("gone", "silent"):
        assert rates[name] >= (1 - MOST_RATE_LOST - rate_noise) * rates["healthy"], name
        assert p99s[name] <= (1 + MOST_P99_ADDED + p99_noise) * p99s["healthy"], name
    assert max(grown_mb.values()) <= MOST_MB
