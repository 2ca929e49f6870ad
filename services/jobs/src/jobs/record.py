"""A job's record, as the state store has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

State = Literal["queued", "running", "delayed", "succeeded", "failed", "cancelled", "expired"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "expired"})
Endpoint = Literal["/v1/chat/completions", "/v1/embeddings", "/generate"]


@dataclass(frozen=True, slots=True)
class Record:
    """Times are milliseconds since the epoch, by the store's clock. What a tenant sent or got is sealed."""

    id: str
    tenant: str
    key_id: str
    state: State
    endpoint: str
    attempts: int
    max_attempts: int
    delays: int
    """How often it was put off, by no fault of its own or to wait for the next attempt."""
    created_at: int
    deadline: int
    ready_at: int
    request_id: str
    """Of the submission."""
    traceparent: str
    is_stream: bool
    started_at: int | None = None
    finished_at: int | None = None
    expires_at: int | None = None
    status: int | None = None
    code: str | None = None
    """Of the last failure."""
    request: bytes | None = None
    metadata: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    """Sealed, or JSON in clear if one of the scripts wrote it."""
    retry_of: str | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @classmethod
    def from_hash(cls, job_id: str, found: Mapping[bytes, bytes]) -> Self:
        """Raises `KeyError` or `ValueError` when the hash is no record."""

        def text(name: str) -> str | None:
            value = found.get(name.encode())
            return value.decode() if value else None

        def number(name: str) -> int | None:
            value = found.get(name.encode())
            return int(value) if value else None

        return cls(
            id=job_id,
            tenant=found[b"tenant"].decode(),
            key_id=found[b"key_id"].decode(),
            state=found[b"state"].decode(),  # type: ignore[arg-type]  # only our scripts write it
            endpoint=found[b"endpoint"].decode(),
            attempts=int(found[b"attempts"]),
            max_attempts=int(found[b"max_attempts"]),
            delays=int(found.get(b"delays", 0)),
            created_at=int(found[b"created_at"]),
            deadline=int(found[b"deadline"]),
            ready_at=int(found[b"ready_at"]),
            request_id=text("request_id") or "",
            traceparent=text("traceparent") or "",
            is_stream=found.get(b"is_stream") == b"1",
            started_at=number("started_at"),
            finished_at=number("finished_at"),
            expires_at=number("expires_at"),
            status=number("status"),
            code=text("code"),
            request=found.get(b"request"),
            metadata=found.get(b"metadata"),
            result=found.get(b"result"),
            error=found.get(b"error"),
            retry_of=text("retry_of"),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at a job, which is its holder's as long as the record has this fence."""

    record: Record
    fence: int
    remaining_s: float
    """Until the job's deadline."""
    waited_s: float
    """Since it was ready to run."""

    @property
    def id(self) -> str:
        return self.record.id


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as a script replies it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
