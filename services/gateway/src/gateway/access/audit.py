"""The audit trail of administration: who changed what, when, from what to what. Never a secret.

A stream in the *state* store, append-only and capped; each entry is written in one transaction with its change. It is a
log line too, so that whoever keeps logs keeps the trail beyond the cap.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from gateway.access.key_names import AUDIT
from gateway.store_errors import store_errors

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import Pipeline

logger = logging.getLogger("audit")

ENTRIES = 20_000
"""About this many are kept in the store: below 10 MB at their usual size of 300 to 500 bytes."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who administers: the first digits of the hash of an admin key tell two of them apart and open nothing."""

    name: str
    request_id: str

    @classmethod
    def of(cls, admin_key: str, request_id: str) -> Actor:
        return cls(f"admin:{hashlib.sha256(admin_key.encode()).hexdigest()[:8]}", request_id)


def append(  # noqa: PLR0913  # what an entry consists of
    pipe: Pipeline,
    actor: Actor,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Add an entry to the transaction of its change; of a change only the fields that differ."""
    if before is not None and after is not None:
        changed = [name for name in after if before.get(name) != after[name]]
        before, after = {name: before.get(name) for name in changed}, {name: after[name] for name in changed}
    entry = {
        "at": round(time.time(), 3),
        "by": actor.name,
        "request_id": actor.request_id,
        "action": action,
        "subject": subject,
        "before": before,
        "after": after,
    }
    pipe.xadd(AUDIT, {"entry": orjson.dumps(entry)}, maxlen=ENTRIES, approximate=True)


def told(actor: Actor, action: str, subject: str) -> None:
    """The log line of a change that is on disk."""
    logger.info("audit", extra={"by": actor.name, "action": action, "subject": subject, "request_id": actor.request_id})


async def newest(store: Redis, *, count: int, before: str | None) -> list[dict[str, Any]]:
    """Entries, the newest first, older than the entry `before`. Raises `StoreUnavailableError`."""
    if before is not None and not before.strip("0-"):
        return []  # before the first id that there can be, which the server calls an error
    with store_errors():
        found: Any = await store.xrevrange(AUDIT, max=f"({before}" if before else "+", count=count)
    return [{"id": entry_id.decode(), **orjson.loads(fields[b"entry"])} for entry_id, fields in found]
