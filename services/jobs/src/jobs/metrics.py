"""The instruments of the jobs service, of its API and of its worker.

What is counted in plain numbers is read when somebody looks. A transition is counted by the process whose script made
it, so that the sum over all processes is the truth; what the store holds is the same wherever it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from common.telemetry.metrics import reading_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from common.figures import Figures
    from jobs.runner import Runner
    from jobs.store import QueueState
    from jobs.transitions import Transitions

    Callback = Callable[[CallbackOptions], Iterable[Observation]]


class Metrics:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._wait = meter.create_histogram(
            "spillway.jobs.queue.wait",
            "s",
            "From when a job was ready to run until it was claimed.",
        )
        self._duration = meter.create_histogram(
            "spillway.jobs.duration",
            "s",
            "From a job's submission to its final state.",
        )

    def waited(self, seconds: float) -> None:
        """A worker has claimed a job."""
        self._wait.record(seconds)

    def ended(self, state: str, seconds: float) -> None:
        """A job is final."""
        self._duration.record(seconds, {"state": state})

    def observe_api(self, transitions: Transitions, queue: Figures[QueueState]) -> None:
        meter = self._meter
        self._observe_transitions(transitions)
        meter.create_observable_counter(
            "spillway.jobs.submitted",
            [reading_each(lambda: transitions.submitted, "endpoint")],
            "{job}",
            "Jobs that were accepted.",
        )
        meter.create_observable_gauge(
            "spillway.jobs.queue.length", [_newest(queue, _lengths)], "{job}", "Open jobs by state."
        )
        meter.create_observable_gauge(
            "spillway.jobs.queue.oldest_age",
            [_newest(queue, lambda now: [Observation(now.oldest_age_s)])],
            "s",
            "How long the job that waits longest has been ready to run.",
        )
        meter.create_observable_gauge(
            "spillway.jobs.dead_letters",
            [_newest(queue, lambda now: [Observation(now.dead_letters)])],
            "{job}",
            "Jobs that ran out of attempts and wait for an operator.",
        )

    def observe_worker(self, transitions: Transitions, runner: Runner) -> None:
        self._observe_transitions(transitions)
        self._meter.create_observable_counter(
            "spillway.jobs.attempts",
            [reading_each(lambda: runner.attempts, "outcome")],
            "{attempt}",
            "Runs that are over.",
        )

    def _observe_transitions(self, transitions: Transitions) -> None:
        self._meter.create_observable_counter(
            "spillway.jobs.finished",
            [reading_each(lambda: transitions.finished, "state")],
            "{job}",
            "Jobs by final state.",
        )


def _newest(queue: Figures[QueueState], look: Callable[[QueueState], Iterable[Observation]]) -> Callback:
    return lambda _: () if queue.newest is None else look(queue.newest)


def _lengths(now: QueueState) -> Iterable[Observation]:
    return [Observation(length, {"state": state}) for state, length in now.lengths.items()]
