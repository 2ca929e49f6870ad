"""The instruments of the cache service. Each reads a plain number when somebody looks; nothing is recorded on the way.

What is the store's own is the same on every replica that says it: take its maximum over them, not its sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from common.telemetry.metrics import reading, reading_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from cache.entries import Entries
    from cache.flights import Flights
    from cache.inventory import StoreState
    from common.figures import Figures


class Metrics:
    def __init__(self, meter: Meter, entries: Entries, flights: Flights, store: Figures[StoreState]) -> None:
        self._store = store
        meter.create_observable_counter(
            "spillway.cache.lookups",
            [reading_each(lambda: entries.lookups, "outcome")],
            "{lookup}",
            "Each entry that was looked for, by what was found.",
        )
        meter.create_observable_gauge(
            "spillway.cache.flights",
            [reading(lambda: flights.attended)],
            "{flight}",
            "Flights whose leader attends them at this replica.",
        )
        meter.create_observable_gauge(
            "spillway.cache.entries", [self._of_store(lambda now: now.keys)], "{key}", "Keys of the store."
        )
        meter.create_observable_counter(
            "spillway.cache.evictions",
            [self._of_store(lambda now: now.evicted_keys)],
            "{key}",
            "What the store let go for want of room, since it began.",
        )
        meter.create_observable_gauge(
            "spillway.cache.memory.usage", [self._of_store(lambda now: now.used_bytes)], "By", "Memory of the store."
        )

    def _of_store(self, look: Callable[[StoreState], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            if (now := self._store.newest) is not None:
                yield Observation(look(now))

        return observe
