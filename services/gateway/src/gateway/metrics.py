"""The gateway's instruments, all of them. What the domain counts is read when somebody looks; see docs/adr/0027.

Attributes are words of ours: outcomes, names of limits and scopes, endpoints. Counts whose outcomes are known begin at
zero, so that the first one already shows in a rate.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, get_args

from common import wire
from common.telemetry.metrics import reading, reading_each
from gateway.call import CHAT, EMBEDDINGS

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from gateway.access.failed_logins import FailedLogins
    from gateway.access.key_directory import KeyDirectory
    from gateway.admission.turnstile import Turnstile
    from gateway.answers.completions import Completions
    from gateway.governor import Governor
    from gateway.idempotency.keyed_requests import KeyedRequests
    from gateway.limits.limiter import Limiter

_ADMISSIONS = dict.fromkeys((("admitted", "", ""), ("degraded", "", "")), 0)
_CACHE = dict.fromkeys(product(get_args(wire.CacheOutcome), (CHAT, EMBEDDINGS)), 0)
_PUTS = dict.fromkeys((("stored",), ("dropped",), ("failed",)), 0)
_KEYED = dict.fromkeys((("first",), ("replayed",), ("unavailable",), ("reused",)), 0)


class Metrics:
    def __init__(  # noqa: PLR0913  # what it observes, all by keyword
        self,
        meter: Meter,
        *,
        governor: Governor,
        completions: Completions,
        turnstile: Turnstile,
        directory: KeyDirectory,
        failed_logins: FailedLogins,
    ) -> None:
        self._limits(meter, governor.limits)
        self._outages(meter, governor.limits, governor.keyed_requests, directory)
        self._cache(meter, completions)
        self._admission(meter, turnstile)
        meter.create_observable_counter(
            "spillway.failed_logins", [reading(lambda: failed_logins.noted)], "{request}", "Failed authentications."
        )
        keyed = governor.keyed_requests
        meter.create_observable_counter(
            "spillway.idempotency.requests",
            [reading_each(lambda: _KEYED | keyed.outcomes, "outcome")],
            "{request}",
            "Requests with an Idempotency-Key, by what became of them.",
        )

    def _limits(self, meter: Meter, limits: Limiter) -> None:
        meter.create_observable_counter(
            "spillway.limits.admissions",
            [reading_each(lambda: _ADMISSIONS | limits.outcomes, "outcome", "limit", "scope")],
            "{request}",
            "Calls that fall under a limit, by what was decided and which limit stood in the way.",
        )
        share = meter.create_histogram(
            "spillway.limits.utilization", "1", "Used share of an admitted call's tightest limit, that call included."
        )
        limits.note_share = lambda limit, used: share.record(used, {"limit": limit})

    def _outages(self, meter: Meter, limits: Limiter, keyed: KeyedRequests, directory: KeyDirectory) -> None:
        def admitted() -> dict[tuple[str], int]:
            return {
                ("limits",): limits.outcomes["degraded", "", ""],
                ("idempotency",): keyed.outcomes["unavailable",],
                ("keys",): directory.stale_answers,
            }

        meter.create_observable_counter(
            "spillway.fail_open", [reading_each(admitted, "mechanism")], "{request}", "Let in without asking a store."
        )

    def _cache(self, meter: Meter, completions: Completions) -> None:
        meter.create_observable_counter(
            "spillway.cache.requests",
            [reading_each(lambda: _CACHE | completions.outcomes, "outcome", "endpoint")],
            "{request}",
            "Answers, by their `x-cache`.",
        )
        meter.create_observable_counter(
            "spillway.cache.puts",
            [reading_each(lambda: _PUTS | completions.writer.puts, "outcome")],
            "{put}",
            "Answers that were to be stored.",
        )
        meter.create_observable_counter(
            "spillway.cache.broken_seals",
            [reading(lambda: completions.cache.broken_seals)],
            "{entry}",
            "Entries that were not what was sealed for this tenant and request: an alarm.",
        )

    def _admission(self, meter: Meter, turnstile: Turnstile) -> None:
        meter.create_observable_gauge(
            "spillway.admission.queue.length", [reading(lambda: turnstile.waiting)], "{call}", "Calls that wait."
        )
        meter.create_observable_gauge(
            "spillway.admission.in_flight", [reading(lambda: turnstile.in_use)], "{call}", "Calls under way."
        )
        meter.create_observable_gauge(
            "spillway.admission.limit",
            [reading(lambda: turnstile.ceiling)],
            "{call}",
            "How many may be under way in this process.",
        )
        wait = meter.create_histogram(
            "spillway.admission.wait.duration", "s", "Of calls that found no slot at once, whatever came of the wait."
        )
        turnstile.note_wait = wait.record
