"""Workers follow the queue: KEDA's questions are about metrics that exist, and its numbers fit the settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

from common.figures import Figures
from common.stores import connect
from common.telemetry.exemplars import ExemplarReader, ExemplarRegistry
from jobs.metrics import Metrics
from jobs.store import QueueState
from jobs.transitions import Transitions
from support.kubernetes import of_kind, variables, workloads
from support.kustomization import K8S, read

if TYPE_CHECKING:
    from support.kustomization import Object

LENGTHS = {"queued": 7, "delayed": 2, "running": 5}
OLDEST_S = 31.0


@pytest.fixture(scope="module")
def parts() -> list[Object]:
    return read(K8S / "overlays" / "production").objects


def triggers(parts: list[Object]) -> dict[str, dict[str, str]]:
    (scaled,) = of_kind(parts, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "worker"
    return {trigger["name"]: trigger["metadata"] for trigger in scaled["spec"]["triggers"]}


def scraped() -> str:
    """What Prometheus reads from a replica of the jobs service that sees such a queue."""

    async def look() -> QueueState:
        raise NotImplementedError

    registry = ExemplarRegistry()
    provider = MeterProvider([ExemplarReader(registry)], shutdown_on_exit=False)
    queue = Figures(look)
    queue.newest = QueueState(LENGTHS, OLDEST_S, dead_letters=0)
    transitions = Transitions(connect("redis://127.0.0.1:1/0"), max_bytes=lambda: 1)
    Metrics(provider.get_meter("jobs")).observe_api(transitions, queue)
    return generate_latest(registry).decode()


def test_workers_follow_the_length_of_the_queue_and_its_age(parts: list[Object]) -> None:
    """By the names that the jobs service's own instruments have at Prometheus."""
    asked = {name: re.findall(r"\b(spillway_\w+)", trigger["query"]) for name, trigger in triggers(parts).items()}
    assert asked == {"length": ["spillway_jobs_queue_length"], "age": ["spillway_jobs_queue_oldest_age_seconds"]}
    page = scraped()
    assert 'spillway_jobs_queue_length{state="queued"} 7.0' in page
    assert "spillway_jobs_queue_oldest_age_seconds 31.0" in page


def test_a_worker_is_wanted_for_as_many_jobs_as_it_runs_at_a_time(parts: list[Object]) -> None:
    """Running ones included: else a worker would be taken away while it works."""
    length = triggers(parts)["length"]
    (worker,) = workloads(parts, "worker")
    assert length["threshold"] == variables(worker)["WORKER_CONCURRENCY"]
    (states,) = re.findall(r'state=~"([^"]+)"', length["query"])
    assert set(states.split("|")) == {"queued", "running"} <= set(LENGTHS)


def test_replicas_that_tell_the_same_queue_are_not_added_up(parts: list[Object]) -> None:
    assert "max by (state)" in triggers(parts)["length"]["query"]
    assert triggers(parts)["age"]["query"].startswith("max(")


def test_there_is_always_a_worker_also_while_prometheus_is_away(parts: list[Object]) -> None:
    (scaled,) = of_kind(parts, "ScaledObject")
    spec = scaled["spec"]
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    assert all(trigger["ignoreNullValues"] == "false" for trigger in triggers(parts).values())


def test_scaling_down_waits_because_each_step_gives_jobs_back_or_drains_streams(objects: list[Object]) -> None:
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        assert one["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
        assert one["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0
