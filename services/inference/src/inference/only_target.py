"""The one target of a service without a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from inference.retries import with_retries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from common.wire import Price
    from inference.batching import Batching
    from inference.questions import Question
    from inference.upstream import Upstream

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    upstream: Upstream
    price: Price | None
    first_event_timeout_s: float
    event_gap_timeout_s: float
    total_timeout_s: float
    max_answer_bytes: int
    max_stream_bytes: int
    batching: Batching | None


@dataclass(frozen=True, slots=True)
class Router:
    target: Target
    max_attempts: int

    async def run(self, question: Question, attempt: Callable[[Target, int], Awaitable[AnswerT]]) -> AnswerT:
        return await with_retries(
            lambda number: attempt(self.target, number), deadline=question.deadline, max_attempts=self.max_attempts
        )
