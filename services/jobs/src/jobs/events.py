"""A job's events as server-sent events (WHATWG HTML, 9.2): its states, and the chunks of a streamed chat.

An event's id is its place in the job's list, which only grows. So `Last-Event-ID` says exactly where to go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from common.errors import InvalidRequest
from jobs.record import FINAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobs.sealing import Sealer

PING = b": ping\n\n"
CHUNK_FIELD = "chunk"


class EventLog:
    """Opens the events of one job."""

    def __init__(self, sealer: Sealer, *, tenant: str, job_id: str) -> None:
        self._sealer = sealer
        self._tenant = tenant
        self._job_id = job_id

    def chunk(self, stored: bytes) -> bytes | None:
        """The data of a chunk, None for a change of state. Raises `SealBrokenError`."""
        if stored[:1] != b"c":
            return None
        return self._sealer.open(stored[1:], tenant=self._tenant, job_id=self._job_id, field=CHUNK_FIELD)

    def rendered(self, number: int, stored: bytes) -> bytes:
        """One event for the wire. A chunk has no `event:` line, as OpenAI's have none."""
        data = self.chunk(stored)
        if data is not None:
            return b"id: %d\ndata: %s\n\n" % (number, data)
        return b"id: %d\nevent: state\ndata: %s\n\n" % (number, stored[1:])

    def last_attempt(self, stored: Iterable[bytes]) -> list[bytes]:
        """The chunks since the job was last started: the answer, if it succeeded."""
        chunks: list[bytes] = []
        for event in stored:
            data = self.chunk(event)
            if data is not None:
                chunks.append(data)
            elif _state(event) == "running":
                chunks.clear()
        return chunks


def is_last(stored: bytes) -> bool:
    """Whether the job is final with this event: nothing follows it."""
    return stored[:1] == b"s" and _state(stored) in FINAL


def first_wanted(last_event_id: str | None, events: int) -> int:
    """The number of the event with which a follower goes on, of a job that has so many. Raises `InvalidRequest`."""
    if not last_event_id:
        return 0
    is_number = last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) <= len(str(events))
    if not is_number or int(last_event_id) >= events:
        raise InvalidRequest("Last-Event-ID has to be the id of an event of this job.", param="last-event-id")
    return int(last_event_id) + 1


def _state(event: bytes) -> str:
    return str(orjson.loads(event[1:])["state"])
