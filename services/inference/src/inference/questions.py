"""What is asked of an upstream, and for how long; and the way that the question goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.identity import HopIdentity
from inference.metering import Meter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.deadline import Deadline
    from common.errors import ServiceError
    from inference.targets import Lease, Target

MOST_ATTEMPTS = 3


class Route:
    """Which target answers a question. The place that the answer takes there is given back by `end`, once."""

    __slots__ = ("_lease", "asked", "asked_as", "attempts", "model", "target", "why")

    def __init__(self) -> None:
        self.model: str | None = None
        """Public name of the model that gave the answer."""
        self.target: str | None = None
        self.attempts = 0
        self.asked: Target | None = None
        """Of the newest attempt."""
        self.asked_as = ""
        """The public name of the model that it was asked for there."""
        self.why = ""
        """The reason of the newest attempt: `first`, `larger`, or what the one before failed of."""
        self._lease: Lease | None = None

    def begin(self, number: int, model: str, target: Target, why: str) -> None:
        """An attempt begins."""
        self.attempts = number
        self.why = why
        self.asked = target
        self.asked_as = model

    def lead_to(self, model: str, lease: Lease) -> None:
        """The target has begun to answer."""
        self.model = model
        self.target = lease.target.name
        self._lease = lease

    def end(self, error: ServiceError | None = None) -> None:
        """The answer is over; `error` is what broke it after its first event."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.end(error)


@dataclass(frozen=True, slots=True)
class Question:
    operation: str
    """`chat`, `embeddings` or `models`: GenAI's `gen_ai.operation.name`."""
    path: str
    model: str
    body: Mapping[str, Any]
    request_id: str
    deadline: Deadline
    choices: int = 1
    identity: HopIdentity = field(default_factory=lambda: HopIdentity("", ""))
    """For whom: the tenant decides about a canary, the priority about the queue."""
    max_attempts: int = MOST_ATTEMPTS
    """What the caller allows; a job's replay is allowed one."""
    route: Route = field(default_factory=Route)
    meter: Meter = field(default_factory=lambda: Meter({}))
    """What the request has used so far; filled in while it is answered."""

    @property
    def is_stream(self) -> bool:
        return self.body.get("stream") is True
