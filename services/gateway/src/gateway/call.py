"""One request of an API key: what is known of it after it was read, judged and authenticated."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.decision import Decision
from gateway.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from starlette.types import Message, Receive

    from common.deadline import Deadline
    from common.identity import HopIdentity
    from common.telemetry.timings import Timings
    from gateway.access.authentication import Caller

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
MODELS = "/v1/models"


async def _silent() -> Message:
    """A client that never leaves."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Call:
    caller: Caller
    identity: HopIdentity
    request_id: str
    endpoint: str
    body: Mapping[str, Any]
    payload: bytes
    """`body` as it is forwarded."""
    deadline: Deadline
    timings: Timings
    is_stream: bool = False
    is_hurried: bool = False
    """The caller waits less long than callers usually do: others are more patient."""
    trace_context: Context | None = None
    """Of its request: work that goes on in its name belongs to its trace, whoever began it."""
    choices: int = 1
    cache_control: frozenset[str] = frozenset()
    """Directives of the request's `Cache-Control` (RFC 9111), lower case."""
    log: dict[str, Any] = field(default_factory=dict)
    """Fields of the request's log line."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the request, names in lower case."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Go with the answer, whatever it will be, an error too."""
    decision: Decision = field(default_factory=Decision)
    ending: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """Unwound once the answer is over, whatever ended it; shielded from cancellation."""
    reservation: Reservation = field(default_factory=Reservation)
    route: str = ""
    """The path that was asked for."""
    receive: Receive = _silent
    """Says when the client has left (ASGI); its request has been read."""

    @property
    def model(self) -> str:
        """Empty: none is asked."""
        return str(self.body.get("model", ""))
