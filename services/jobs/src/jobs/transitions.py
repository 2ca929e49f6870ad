"""The changes of a job's record. Each is one Lua script (`scripts/*.lua`), so that it happens as a whole or not at all.

The server's TIME is the clock; a test may hand in one of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

from redis.exceptions import RedisError

from common.telemetry.spans import UNTRACED, StoreSpans
from jobs.errors import StoreUnavailable
from jobs.record import FINAL, Claim, Endpoint, Record, pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.asyncio import Redis

PREFIX = "v1:{jobs}"
"""One hash tag for all: turns, depth and the byte bound are facts about all tenants together (docs/adr/0025)."""
REAPED_AT_ONCE = 100
_REFUSED_WHEN_FULL = frozenset({"accept", "append"})
"""Everything else runs although `maxmemory` is reached: it frees memory, or keeps a job from being run again."""

_UNTRACED = frozenset({"append", "heartbeat"})
"""There is one for each piece of a long answer, and every few seconds."""

AcceptOutcome = Literal["ok", "dup", "mismatch", "tenant_full", "full"]
Beat = Literal["ok", "cancel", "lost"]


@dataclass(frozen=True, slots=True)
class Bounds:
    open_per_tenant: int
    open_in_all: int


@dataclass(frozen=True, slots=True)
class NewJob:
    id: str
    tenant: str
    request: bytes
    """Sealed."""
    deadline_ms: int
    keep_ms: int
    digest: str
    idempotency: str
    """Digest of the Idempotency-Key, or empty."""
    fields: Mapping[str, str | bytes | int]
    """What else the record holds; empty values are left out."""


@dataclass(frozen=True, slots=True)
class Reaped:
    expired: int
    lost: int
    ready: int
    ended: int


class Transitions:
    """Every method raises `StoreUnavailable` when the store does not answer: then it may have happened or not."""

    def __init__(  # noqa: PLR0913  # the store, and what differs, by keyword
        self,
        redis: Redis,
        *,
        max_bytes: Callable[[], int],
        prefix: str = PREFIX,
        clock: Callable[[], int] | None = None,
        spans: StoreSpans = UNTRACED,
        note_end: Callable[[str, float], None] = lambda _state, _seconds: None,
    ) -> None:
        """`note_end` is told of each job that a transition of this process ended: its state, and its age in seconds."""
        self.submitted: Counter[str] = Counter(dict.fromkeys(get_args(Endpoint), 0))
        """By endpoint."""
        self.finished: Counter[str] = Counter(dict.fromkeys(FINAL, 0))
        """By final state."""
        self._scripts = {
            name: redis.register_script(_text(name))
            for name in ("accept", "claim", "heartbeat", "append", "finish", "release", "cancel", "reap", "purge")
        }
        self._max_bytes = max_bytes
        self._prefix = prefix
        self._clock = clock
        self._spans = spans
        self._note_end = note_end

    async def accept(self, job: NewJob, bounds: Bounds) -> tuple[AcceptOutcome, str]:
        """Return what became of it and the id of the job that is meant. Accepting the same id twice is one job."""
        fields = [part for name, value in job.fields.items() if value not in ("", b"") for part in (name, value)]
        outcome, job_id = await self._run(
            "accept", job.id, job.tenant, bounds.open_per_tenant, bounds.open_in_all, self._max_bytes(),
            job.deadline_ms, job.idempotency, job.digest, job.request, job.keep_ms, *fields,
        )  # fmt: skip
        if outcome == b"ok":
            self.submitted[str(job.fields["endpoint"])] += 1
        return outcome.decode(), job_id.decode()

    async def claim(self, lease_ms: int, name: str) -> Claim | None:
        """The next job, None when none waits. Said again under the same `name` it is the same claim."""
        reply = await self._run("claim", lease_ms, name)
        if not reply:
            return None
        job_id, fence, remaining_ms, waited_ms, flat = reply
        record = Record.from_hash(job_id.decode(), pairs(flat))
        return Claim(record, int(fence), int(remaining_ms) / 1000, max(0, int(waited_ms)) / 1000)

    async def heartbeat(self, lease_ms: int, claims: Sequence[Claim]) -> list[Beat]:
        """Prolong the leases; one reply per claim, in their order."""
        runs = [part for claim in claims for part in (claim.id, claim.fence)]
        return [reply.decode() for reply in await self._run("heartbeat", lease_ms, *runs)]

    async def append(
        self, claim: Claim, chunks: Sequence[bytes], *, before: int, max_bytes: int
    ) -> Literal["ok", "lost", "too_large", "full"]:
        """Add sealed chunks; `before`: how many of this attempt went before them."""
        reply = await self._run("append", claim.id, claim.fence, before, max_bytes, self._max_bytes(), *chunks)
        return reply.decode()  # type: ignore[no-any-return]  # as the script says

    async def finish(  # noqa: PLR0913  # what an end consists of, by keyword
        self,
        claim: Claim,
        state: Literal["succeeded", "failed", "expired"],
        *,
        status: int | None = None,
        result: bytes = b"",
        error: bytes = b"",
        code: str = "",
    ) -> str:
        """End the job; returns the state that it has now, or `fenced`."""
        shown = "" if status is None else status
        reply = await self._run("finish", claim.id, claim.fence, state, self._max_bytes(), shown, result, error, code)
        return str(reply.decode())

    async def release(
        self, claim: Claim, *, delay_ms: int = 0, give_back: bool, error: bytes = b"", code: str = ""
    ) -> str:
        """Give the job back, to be run again; returns the state that it has now, or `fenced`."""
        given = "1" if give_back else "0"
        return str((await self._run("release", claim.id, claim.fence, delay_ms, given, error, code)).decode())

    async def cancel(self, job_id: str, *, tenant: str) -> str:
        """Return the state that the job has now, or `none`. An empty tenant is an operator, who may cancel any."""
        return str((await self._run("cancel", job_id, tenant)).decode())

    async def reap(self, limit: int = REAPED_AT_ONCE) -> Reaped:
        return Reaped(*await self._run("reap", limit))

    async def purge(self, job_id: str) -> bool:
        """Whether there was such a dead letter."""
        return bool(await self._run("purge", job_id))

    async def _run(self, name: str, *args: str | bytes | float) -> Any:
        now = "" if self._clock is None else self._clock()
        operation = self._spans.in_background if name in _UNTRACED else self._spans.operation
        try:
            with operation(name):
                reply, ended = await self._scripts[name](keys=[self._prefix], args=[now, *args])
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(type(error).__name__) from error
        for state, age_ms in zip(ended[::2], ended[1::2], strict=True):
            self.finished[state.decode()] += 1
            self._note_end(state.decode(), age_ms / 1000)
        return reply


def _text(name: str) -> str:
    scripts = resources.files("jobs") / "scripts"
    flags = "" if name in _REFUSED_WHEN_FULL else " flags=allow-oom"
    head, body = (scripts / "record.lua").read_text(), (scripts / f"{name}.lua").read_text()
    return f"#!lua{flags}\n{head}local function transition()\n{body}end\nreturn {{ transition() or false, ended }}\n"
