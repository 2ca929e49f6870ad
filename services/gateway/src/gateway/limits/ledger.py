"""What was used, by tenant, key and model, and by UTC day: gathered in this process, in the store about each second.

`v1:usage:{tenant}:<yyyymmdd>` is a hash, its fields `<key id> <measure> <model>`; `v1:usage:tenants:<yyyymmdd>` names
the tenants of a day. Both live for 400 days.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from common.background import end
from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.store import LimitsStore, load_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

COUNT = load_script("count")
NAME = load_script("name")
FLUSH_EVERY_S = 1.0
KEPT_S = 400 * 86_400
MARK_LIFE_S = 300
ASKED_AGAIN_FOR_S = 120
MOST_COUNTERS = 100_000
"""In this process while the store is away; what comes on top is lost, and counted as lost."""
NO_MODEL = "-"
"""Asked for by a client and known to nobody: its name is not kept."""

Measure = Literal[
    "requests", "refused", "cached", "input_tokens", "output_tokens", "cost_micro_usd", "cost_unknown", "estimated"
]
MEASURES: tuple[Measure, ...] = (
    "requests", "refused", "cached", "input_tokens", "output_tokens", "cost_micro_usd", "cost_unknown", "estimated",
)  # fmt: skip


@dataclass(slots=True)
class _Batch:
    """Of one tenant and day; once it was sent it does not change, so that it can be sent again."""

    tenant: str
    day: str
    counters: Mapping[str, int]
    sent_at: float
    name: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one key used of one model on one UTC day."""

    day: str
    tenant: str
    key: str
    model: str
    measures: Mapping[str, int]


class Ledger:
    def __init__(
        self,
        store: LimitsStore | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        spans: StoreSpans = UNTRACED,
    ) -> None:
        self._store = store
        self._spans = spans
        self._clock = clock
        self._wall_clock = wall_clock
        self._counters: dict[tuple[str, str], Counter[str]] = {}
        self._size = 0
        self._unconfirmed: list[_Batch] = []
        self.lost = 0

    def add(self, tenant: str, key_id: str, model: str, measures: Mapping[Measure, int]) -> None:
        """Count, today."""
        if self._store is None:
            return
        counters = self._counters.setdefault((tenant, self._today()), Counter())
        for measure, amount in measures.items():
            name = f"{key_id} {measure} {model}"
            if name not in counters:
                if self._size >= MOST_COUNTERS:
                    self.lost += 1
                    continue
                self._size += 1
            counters[name] += amount

    def _today(self) -> str:
        return dt.datetime.fromtimestamp(self._wall_clock(), dt.UTC).strftime("%Y%m%d")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Flush each second within the body, and once more at its end."""
        task = asyncio.create_task(self._flush_all())
        try:
            yield
        finally:
            await end(task)
            await self.flush()

    async def _flush_all(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Send what was gathered. A batch whose answer was lost is sent again as it was, and counted once."""
        if self._store is None or self._store.is_resting:
            return
        now = self._clock()
        still = [batch for batch in self._unconfirmed if now - batch.sent_at <= ASKED_AGAIN_FOR_S]
        self.lost += sum(len(batch.counters) for batch in self._unconfirmed) - sum(len(b.counters) for b in still)
        fresh = [_Batch(tenant, day, counters, now) for (tenant, day), counters in self._counters.items()]
        self._counters, self._size = {}, 0
        self._unconfirmed = [*still, *fresh]
        answers = await asyncio.gather(*(self._send(batch) for batch in self._unconfirmed), return_exceptions=True)
        self._unconfirmed = [
            batch for batch, answer in zip(self._unconfirmed, answers, strict=True) if isinstance(answer, Exception)
        ]

    async def _send(self, batch: _Batch) -> None:
        assert self._store is not None  # noqa: S101  # for the type checker
        mark, counters = f"v1:usage:{{{batch.tenant}}}:mark:{batch.name}", _counters_of(batch.tenant, batch.day)
        words = [word for pair in batch.counters.items() for word in pair]
        with self._spans.in_background("count"):
            await asyncio.gather(
                self._store.run(COUNT, [mark, counters], [MARK_LIFE_S, KEPT_S, *words]),
                self._store.run(NAME, [_tenants_of(batch.day)], [KEPT_S, batch.tenant]),
            )

    async def rows(self, days: Sequence[str], *, tenant: str | None) -> list[UsageRow]:
        """What was used on `days` (`yyyymmdd`), by day, tenant, key and model. Raises `LimitsStoreAwayError`."""
        if self._store is None:
            raise LimitsStoreAwayError("not configured")
        if tenant is None:
            members = await self._store.members([_tenants_of(day) for day in days])
            wanted = [(day, name.decode()) for day, names in zip(days, members, strict=True) for name in sorted(names)]
        else:
            wanted = [(day, tenant) for day in days]
        rows: list[UsageRow] = []
        for start in range(0, len(wanted), 64):
            part = wanted[start : start + 64]
            hashes = await self._store.hashes([_counters_of(name, day) for day, name in part])
            for (day, name), fields in zip(part, hashes, strict=True):
                rows += _rows_of(day, name, fields.items())
        return rows


def _rows_of(day: str, tenant: str, fields: Iterable[tuple[bytes, bytes]]) -> list[UsageRow]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name, value in fields:
        key, measure, model = name.decode().split(" ", 2)
        found.setdefault((key, model), {})[measure] = int(value)
    return [UsageRow(day, tenant, key, model, measures) for (key, model), measures in sorted(found.items())]


def _counters_of(tenant: str, day: str) -> str:
    return f"v1:usage:{{{tenant}}}:{day}"


def _tenants_of(day: str) -> str:
    return f"v1:usage:tenants:{day}"
