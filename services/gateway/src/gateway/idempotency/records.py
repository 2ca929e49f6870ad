"""Idempotency records in the *state* store: `v1:{idempotency}:record:{name}` is one, and four scripts change it.

One hash tag for all, because one script bounds what all tenants together may keep. A name is a keyed hash: what a
client chose as its key is in no key name. Answers are sealed.
Source: the draft "The Idempotency-Key HTTP Header Field" (IETF httpapi).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import RedisError, ResponseError

from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.errors import StoreUnavailableError
from gateway.idempotency.errors import RecordLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

    from gateway.caching.sealing import Sealer
    from gateway.store_breaker import StoreBreaker

PREFIX = "v1:{idempotency}:"


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long, and how much."""

    lease_s: float = 30
    """An owner that died holds its record no longer than this."""
    keep_s: float = 86_400
    max_answer_bytes: int = 2 * 2**20
    """A larger answer is remembered as given, and cannot be given again."""
    tenant_bytes: int = 64 * 2**20
    """Beyond it a tenant's oldest answers are forgotten: their retries run anew."""
    total_bytes: int = 256 * 2**20
    """Beyond it nothing more is kept. At most half of the store's memory: keys live there as well."""


Outcome = Literal["claimed", "running", "mismatch", "done", "full"]


@dataclass(frozen=True, slots=True)
class Claim:
    outcome: Outcome
    lease_left_s: float = 0
    """Of `running`."""
    answer: bytes = b""
    """Of `done`; empty: it was too large to be kept."""


class Records:
    """Each method is one round trip and raises `StoreUnavailableError`; repeating one is harmless."""

    def __init__(  # noqa: PLR0913  # three parts, and what else by keyword
        self,
        store: Redis,
        sealer: Sealer,
        keeping: Keeping,
        *,
        breaker: StoreBreaker,
        store_clock: Callable[[], int] | None = None,
        spans: StoreSpans = UNTRACED,
    ) -> None:
        """`breaker`: that of everybody who asks this store. `store_clock` (Unix ms) replaces its own, in tests."""
        self.keeping = keeping
        self._spans = spans
        self._sealer = sealer
        self._store_clock = store_clock
        self._breaker = breaker
        self._claim, self._renew, self._finish, self._release = (
            store.register_script(Path(__file__).with_name(f"{name}.lua").read_text())
            for name in ("claim", "renew", "finish", "release")
        )

    async def claim(self, name: str, *, owner: str, tenant: str, body: str, is_first: bool = True) -> Claim:
        """Raises `SealBrokenError` too: the kept answer is damaged, or another's. Only the first of many is a span."""
        keys = [_record(name), PREFIX + "kept", PREFIX + "bytes"]
        with self._spans.operation("claim") if is_first else self._spans.in_background("claim"):
            reply = await self._run(self._claim, keys, owner, body, self._lease_ms, self.keeping.total_bytes)
        outcome: Outcome = reply[0].decode()
        if outcome == "running":
            return Claim(outcome, lease_left_s=reply[1] / 1000)
        if outcome == "done" and reply[1]:
            return Claim(outcome, answer=self._sealer.open(reply[1], tenant=tenant, place=name))
        return Claim(outcome)

    async def renew(self, name: str, *, owner: str) -> float | None:
        """Seconds since anybody elsewhere asked for the answer (infinite: nobody did); None: the record is lost."""
        with self._spans.in_background("renew"):
            reply = await self._run(self._renew, [_record(name)], owner, self._lease_ms)
        if reply[0] == b"lost":
            return None
        return reply[1] / 1000 if reply[1] >= 0 else float("inf")

    async def finish(self, name: str, *, owner: str, tenant: str, answer: bytes) -> bool:
        """Keep `answer`, or if it is too large, that there was one; empty: it is. Whether anything is kept.

        Raises `RecordLostError`: another's answer counts.
        """
        keys = [_record(name), PREFIX + "kept", f"{PREFIX}kept:{tenant}", PREFIX + "bytes"]
        keeping = self.keeping
        is_kept = 0 < len(answer) <= keeping.max_answer_bytes
        sealed = self._sealer.seal(answer, tenant=tenant, place=name) if is_kept else b""
        keep_ms = round(keeping.keep_s * 1000)
        with self._spans.operation("finish"):
            reply = await self._run(
                self._finish, keys, owner, sealed, keep_ms, tenant, name, keeping.tenant_bytes, keeping.total_bytes
            )
        if reply[0] == b"lost":
            raise RecordLostError
        return bool(reply[0] == b"ok")

    async def release(self, name: str, *, owner: str) -> None:
        with self._spans.operation("release"):
            await self._run(self._release, [_record(name)], owner)

    @property
    def _lease_ms(self) -> int:
        return round(self.keeping.lease_s * 1000)

    async def _run(self, script: AsyncScript, keys: list[str], *args: str | bytes | int) -> Any:
        if self._breaker.is_open:
            raise StoreUnavailableError("resting")
        now = "" if self._store_clock is None else self._store_clock()
        try:
            reply: Any = await script(keys=keys, args=[*args, now])
        except ResponseError as error:  # full, or read-only: it answers at once, and keys can be read
            raise StoreUnavailableError(type(error).__name__) from error
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.trip(type(error).__name__)
            raise StoreUnavailableError(type(error).__name__) from error
        return reply


def _record(name: str) -> str:
    return f"{PREFIX}record:{name}"
