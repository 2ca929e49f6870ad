"""What is asked of an upstream, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.metering import Meter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.deadline import Deadline


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
    meter: Meter = field(default_factory=lambda: Meter({}))
    """What the request has used so far; filled in while it is answered."""
