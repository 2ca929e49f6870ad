"""The instruments of the inference service.

What the domain counts in plain numbers is read when somebody looks; only durations, tokens and costs are recorded, once
for each operation. Labels are the catalogue's own words and ours: a model that it does not have is `other`.

A look may come from another thread: `list()` of a dict's items is one step of the interpreter, so nothing tears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from common.telemetry import conventions
from common.telemetry.metrics import is_off, reading_each
from inference.spans import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from inference.live_catalogue import LiveCatalogue
    from inference.metering import Meter as UsageMeter
    from inference.operations import Ended
    from inference.router import Router
    from inference.targets import Target

    Attributes = dict[str, str]

_BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    def __init__(self, meter: Meter, router: Router, live: LiveCatalogue | None) -> None:
        """`live`: None when no file says which models there are."""
        self._router = router
        self._is_off = is_off(meter)
        self._duration = meter.create_histogram(
            conventions.GEN_AI_DURATION,
            "s",
            "Operations, retries and fallbacks included.",
        )
        self._first_chunk = meter.create_histogram(
            conventions.GEN_AI_TIME_TO_FIRST_CHUNK_METRIC,
            "s",
            "Streams: until the first event with content.",
        )
        self._tokens = meter.create_histogram(
            conventions.GEN_AI_TOKEN_USAGE,
            "{token}",
            "Of all attempts of an operation together.",
        )
        self._costs: dict[tuple[str, str], float] = {}
        meter.create_observable_counter(
            "spillway.cost",
            [reading_each(lambda: self._costs, conventions.GEN_AI_REQUEST_MODEL, conventions.TARGET)],
            "usd",
            "Where the price is known.",
        )
        self._joined = meter.create_histogram(
            "spillway.embeddings.joined",
            "{item}",
            "Inputs of an upstream call of a target that joins requests.",
        )
        self._observe_targets(meter)
        meter.create_observable_counter(
            "spillway.fallbacks",
            [reading_each(self._fallbacks, conventions.GEN_AI_REQUEST_MODEL, conventions.FALLBACK_MODEL)],
            "{answer}",
            "Answers of another model than the one asked for.",
        )
        meter.create_observable_gauge("spillway.canary.weight", [self._canary_weights], "1", "Share of the tenants.")
        meter.create_observable_counter("spillway.canary.rollbacks", [self._rollbacks], "{rollback}")
        if live is not None:
            meter.create_observable_counter(
                "spillway.catalogue.reloads", [lambda _: _reloads(live)], "{version}", "Versions of models.yaml."
            )

    def record(self, ended: Ended) -> None:
        """An operation is over."""
        if self._is_off:
            return
        attributes = self._attributes(ended)
        meter = ended.question.meter
        rides_along = bool(meter.attempts) and meter.attempts[-1].rides_along
        if not (rides_along or ended.is_abandoned):
            self._duration.record(ended.duration_s, attributes)
        if ended.first_chunk_s is not None:
            self._first_chunk.record(ended.first_chunk_s, attributes)
        if meter.attempts and (usage := meter.total()) is not None:
            self._tokens.record(usage.input_tokens, attributes | {conventions.GEN_AI_TOKEN_TYPE: "input"})
            if usage.output_tokens:  # embeddings have none
                self._tokens.record(usage.output_tokens, attributes | {conventions.GEN_AI_TOKEN_TYPE: "output"})
            self._count_costs(meter)

    def _count_costs(self, meter: UsageMeter) -> None:
        for use in meter.attempts:
            if use.was_taken_on and (cost_usd := meter.usage_of(use).cost_usd) is not None:
                key = self._router.served.label(use.model), use.target
                self._costs[key] = self._costs.get(key, 0.0) + cost_usd

    def note_items(self, items: int) -> None:
        """An upstream call that may have joined several requests begins, with so many inputs."""
        self._joined.record(items)

    def _attributes(self, ended: Ended) -> Attributes:
        question, served = ended.question, self._router.served
        attributes = {
            conventions.GEN_AI_OPERATION: question.operation,
            conventions.GEN_AI_PROVIDER: PROVIDER,
            conventions.GEN_AI_REQUEST_MODEL: served.label(question.model),
        }
        route = question.route
        if route.model is not None:
            attributes[conventions.GEN_AI_RESPONSE_MODEL] = served.label(route.model)
        if route.asked is not None:
            attributes[conventions.SERVER_ADDRESS] = route.asked.upstream.address
        if ended.error_type is not None:
            attributes[conventions.ERROR_TYPE] = ended.error_type
        return attributes

    def _observe_targets(self, meter: Meter) -> None:
        meter.create_observable_counter(
            "spillway.attempts", [self._of_targets(_attempts)], "{attempt}", "Upstream calls that are over, by outcome."
        )
        meter.create_observable_counter(
            "spillway.retries", [self._of_targets(_retries)], "{retry}", "By the target and the reason of the failure."
        )
        meter.create_observable_counter(
            "spillway.upstream.refusals", [self._of_targets(_refusals)], "{refusal}", "Calls that were not sent."
        )
        meter.create_observable_counter(
            "spillway.breaker.opened",
            [self._of_targets(_one(lambda target: target.breaker.opened))],
            "{time}",
            "How often a target failed too often to be asked.",
        )
        meter.create_observable_gauge(
            "spillway.breaker.state",
            [self._of_targets(_one(lambda target: _BREAKER_STATES[target.breaker.state]))],
            "1",
            "0 closed, 1 half open, 2 open.",
        )
        meter.create_observable_gauge(
            "spillway.target.in_flight",
            [self._of_targets(_one(lambda target: target.concurrency.in_flight))],
            "{call}",
            "Calls under way.",
        )
        meter.create_observable_gauge(
            "spillway.target.limit",
            [self._of_targets(_one(lambda target: target.concurrency.limit))],
            "{call}",
            "How many calls at a time it gets at the moment.",
        )

    def _of_targets(
        self, look: Callable[[Target, Attributes], Iterable[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for model, target in self._router.served.labelled_targets():
                yield from look(target, {conventions.GEN_AI_REQUEST_MODEL: model, conventions.TARGET: target.name})

        return observe

    def _fallbacks(self) -> dict[tuple[str, str], int]:
        models = self._router.served.models.values()
        possible = {(model.name, other): 0 for model in models for other in (*model.fallback, model.larger) if other}
        return possible | dict(self._router.fallbacks)

    def _canary_weights(self, _: CallbackOptions) -> Iterable[Observation]:
        for model in self._router.served.models.values():
            if model.canary is not None and model.on_trial is not None:
                attributes = {conventions.GEN_AI_REQUEST_MODEL: model.name, conventions.TARGET: model.on_trial.name}
                yield Observation(model.canary.percent / 100, attributes)

    def _rollbacks(self, _: CallbackOptions) -> Iterable[Observation]:
        for model in self._router.served.models.values():
            if model.canary is not None and model.on_trial is not None:
                attributes = {conventions.GEN_AI_REQUEST_MODEL: model.name, conventions.TARGET: model.on_trial.name}
                yield Observation(model.canary.rollbacks, attributes)


def _one(look: Callable[[Target], int]) -> Callable[[Target, Attributes], Iterable[Observation]]:
    return lambda target, attributes: [Observation(look(target), attributes)]


def _attempts(target: Target, attributes: Attributes) -> Iterable[Observation]:
    for outcome, count in list(target.outcomes.items()):
        yield Observation(count, attributes | {"outcome": outcome})


def _retries(target: Target, attributes: Attributes) -> Iterable[Observation]:
    for reason, count in list(target.retries.items()):
        yield Observation(count, attributes | {"reason": reason})


def _refusals(target: Target, attributes: Attributes) -> Iterable[Observation]:
    yield Observation(target.throttle.refusals, attributes | {"reason": "throttle"})
    yield Observation(target.budget.exhausted, attributes | {"reason": "retry_budget"})
    yield Observation(target.concurrency.refusals, attributes | {"reason": "concurrency"})


def _reloads(live: LiveCatalogue) -> Iterable[Observation]:
    yield Observation(live.reloads, {"outcome": "taken"})
    yield Observation(live.refused, {"outcome": "refused"})
