"""Dynamic batching of embeddings: concurrent small requests for one target become one upstream call.

A request that finds no call of its kind under way goes at once, alone: an idle service adds no latency. Those that come
meanwhile gather for at most `max_wait_s` or until there are `max_items`, and go together. Source: Nagle, RFC 896.

Requests of several tenants may be joined: the upstream sees their inputs and nothing of whose they are, and each gets
its own vectors back. What the upstream says about a joined request's *failure* is told to nobody, because it may quote
a neighbour: when it refuses one, each is asked alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from inference.errors import AttemptFailedError
from inference.joining import UnsplittableError, items_of, joined, part_of, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping

    from common.deadline import Deadline
    from inference.catalogue import Batching
    from inference.joining import Part

    Ask = Callable[[Mapping[str, Any], Deadline], Awaitable[bytes]]

_OURS = frozenset({"status_401", "status_403"})
"""Refusals of the platform's own credentials. Of what else would not be mended by trying again, one part may be the
cause, or the size of the whole."""


@dataclass(frozen=True, slots=True)
class Share:
    """The answer to one request out of a call that may have answered others too."""

    body: bytes
    requests: int
    """How many that call answered."""
    rides_along: bool = False
    """The call is another's to report: each has one request that does not ride along."""


@dataclass(slots=True, eq=False)
class _Member:
    part: Part
    body: Mapping[str, Any]
    deadline: Deadline
    answer: asyncio.Future[Share | None]
    """None: ask alone."""


@dataclass(slots=True, eq=False)
class _Batch:
    members: list[_Member] = field(default_factory=list)
    items: int = 0
    timer: asyncio.TimerHandle | None = None
    call: asyncio.Task[None] | None = None


class Batcher:
    """Joins requests of one kind (`kind` names the target; the parts' equal fields are added to it)."""

    def __init__(self, note_items: Callable[[int], object] = lambda _: None) -> None:
        """`note_items` is told of each upstream call how many inputs it has."""
        self._note_items = note_items
        self._gathering: dict[Hashable, _Batch] = {}
        self._under_way: dict[Hashable, int] = {}
        self._calls: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Batcher]:
        try:
            yield self
        finally:
            for batch in self._gathering.values():
                for member in batch.members:
                    member.answer.cancel()
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    @property
    def is_idle(self) -> bool:
        return not (self._gathering or self._under_way or self._calls)

    async def ask(
        self, kind: Hashable, body: Mapping[str, Any], deadline: Deadline, batching: Batching, ask: Ask
    ) -> Share:
        """Answer one request by `ask`, alone or joined. A caller that is cancelled leaves the others' call alone.

        Raises what `ask` raises; a failure of a joined call, in words of our own, is each one's own exception.
        """
        part = part_of(body, batching.max_items)
        if part is None:
            return await self._alone(body, deadline, ask)
        key = (kind, part.fields)
        if not self._under_way.get(key):
            with self._counted(key):
                return await self._alone(body, deadline, ask)
        member = _Member(part, body, deadline, asyncio.get_running_loop().create_future())
        batch = self._join(key, member, batching, ask)
        try:
            share = await member.answer
        except asyncio.CancelledError:
            self._leave(key, batch, member)
            raise
        return share if share is not None else await self._alone(body, deadline, ask)

    async def _alone(self, body: Mapping[str, Any], deadline: Deadline, ask: Ask) -> Share:
        self._note_items(items_of(body))
        return Share(await ask(body, deadline), 1)

    def _join(self, key: Hashable, member: _Member, batching: Batching, ask: Ask) -> _Batch:
        batch = self._gathering.get(key)
        if batch is not None and batch.items + len(member.part.items) > batching.max_items:
            self._send(key, batch, ask)
            batch = None
        if batch is None:
            batch = self._gathering[key] = _Batch()
            loop = asyncio.get_running_loop()
            batch.timer = loop.call_later(batching.max_wait_s, self._send, key, batch, ask)
        batch.members.append(member)
        batch.items += len(member.part.items)
        if batch.items == batching.max_items:
            self._send(key, batch, ask)
        return batch

    def _leave(self, key: Hashable, batch: _Batch, member: _Member) -> None:
        if batch.call is None:
            batch.members.remove(member)
            batch.items -= len(member.part.items)
            if not batch.members and batch.timer is not None:
                batch.timer.cancel()
                del self._gathering[key]
        elif all(other.answer.done() for other in batch.members):
            batch.call.cancel()  # nobody waits for it any more

    def _send(self, key: Hashable, batch: _Batch, ask: Ask) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        del self._gathering[key]
        batch.call = asyncio.create_task(self._answer(key, batch, ask))
        self._calls.add(batch.call)
        batch.call.add_done_callback(lambda call: self._forget(batch, call))

    async def _answer(self, key: Hashable, batch: _Batch, ask: Ask) -> None:
        members = batch.members
        parts = [member.part for member in members]
        is_joined = len(members) > 1
        try:
            with self._counted(key):
                # As long as the most patient waits; the others leave when their own time is up.
                self._note_items(sum(len(part.items) for part in parts))
                longest = max((member.deadline for member in members), key=lambda deadline: deadline.remaining_s())
                answer = await ask(joined(members[0].body, parts) if is_joined else members[0].body, longest)
            bodies = split(answer, parts) if is_joined else [answer]
        except UnsplittableError:
            _ask_alone(members)
        except AttemptFailedError as failed:
            if not is_joined:
                _tell(members, failed)
            elif failed.is_retryable or failed.reason in _OURS:
                for number, member in enumerate(_waiting(members)):
                    _tell([member], _in_our_words(failed, rides_along=number > 0))
            else:
                _ask_alone(members)
        else:
            answers = dict(zip(members, bodies, strict=True))
            for number, member in enumerate(_waiting(members)):
                member.answer.set_result(Share(answers[member], len(members), rides_along=number > 0))

    def _forget(self, batch: _Batch, call: asyncio.Task[None]) -> None:
        """Whatever ended the call, nobody waits for it for ever."""
        self._calls.discard(call)
        if call.cancelled():
            for member in batch.members:
                member.answer.cancel()
        elif (error := call.exception()) is not None:
            _tell(batch.members, error)

    @contextlib.contextmanager
    def _counted(self, key: Hashable) -> Iterator[None]:
        self._under_way[key] = self._under_way.get(key, 0) + 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]


def _waiting(members: list[_Member]) -> list[_Member]:
    return [member for member in members if not member.answer.done()]


def _ask_alone(members: list[_Member]) -> None:
    for member in _waiting(members):
        member.answer.set_result(None)


def _tell(members: list[_Member], error: BaseException) -> None:
    for member in _waiting(members):
        member.answer.set_exception(error)


def _in_our_words(failed: AttemptFailedError, *, rides_along: bool) -> AttemptFailedError:
    """The same failure for one of those who shared it: an exception of its own that quotes no neighbour."""
    shared = failed.error
    error = type(shared)("The upstream did not answer a joined request.", code=shared.code, headers=shared.headers)
    error.status, error.scope, error.is_told = shared.status, shared.scope, shared.is_told
    return replace(failed, error=error, rides_along=rides_along)
