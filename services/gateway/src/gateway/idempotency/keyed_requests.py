"""`Idempotency-Key`: a request that is sent twice runs once, on any replica, and both get the answer.

Per tenant and route. The first run's answer is kept, sealed, for 24 h; a duplicate in flight waits for it; the same
key with another body is refused. So a client's own retry is safe.
Source: the draft "The Idempotency-Key HTTP Header Field" (IETF httpapi).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import hmac
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from common.deadline import Patience
from common.errors import ServiceError
from common.streams.event_stream import EventStream
from gateway.idempotency.errors import HEADER, BadIdempotencyKey, IdempotencyKeyReused
from gateway.idempotency.execution import Execution, Outcome
from gateway.idempotency.run import Follower
from gateway.strict_json import render_canonical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.responses import Response

    from gateway.call import Call
    from gateway.idempotency.recording import Recording
    from gateway.idempotency.records import Records

STATE = "x-idempotency"
"""`unavailable` on an answer that nothing protects from being run again."""
CLOSE_S = 2.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def key_in(headers: Mapping[str, str]) -> str | None:
    """The request's key, if it has one. Raises `BadIdempotencyKey`."""
    key = headers.get(HEADER.lower())
    if key is not None and _KEY.fullmatch(key) is None:
        raise BadIdempotencyKey(f"{HEADER} has to be 1 to 255 visible ASCII characters.", param=HEADER)
    return key


class KeyedRequests:
    """Those with an `Idempotency-Key` that are under way in this process; a request without one costs nothing here."""

    def __init__(self, records: Records, *, secret: str) -> None:
        self._records = records
        self._secret = hmac.digest(secret.encode(), b"spillway idempotency v1", "sha256")
        self.outcomes: Counter[tuple[str]] = Counter()
        """`first`, `replayed`, `unavailable` (nothing protects it from being run again) or `reused` (refused)."""
        self._under_way: dict[str, tuple[Execution, asyncio.Task[Outcome]]] = {}

    async def serve(
        self,
        call: Call,
        answer: Callable[[Call], Awaitable[Response]],
        admit_replay: Callable[[Call], Awaitable[None]],
    ) -> Response:
        """Answer `call`, or give it the answer that was made for its key; a replay is admitted by `admit_replay`.

        Raises `ServiceError`, `BadIdempotencyKey` and `IdempotencyKeyReused` among them.
        """
        key = key_in(call.headers)
        if key is None:
            return await answer(call)
        name = self._digest(b"key", call.caller.tenant, call.route, key)
        body = self._digest(b"body", render_canonical(dict(call.body)))
        follower = Follower(call, answer)
        try:
            return await self._served(name, body, follower, admit_replay)
        except IdempotencyKeyReused:
            self.outcomes["reused",] += 1
            raise

    async def _served(
        self, name: str, body: str, follower: Follower, admit_replay: Callable[[Call], Awaitable[None]]
    ) -> Response:
        call = follower.call
        async with Patience(call.deadline, call.receive):
            execution, task = await self._join(name, body, follower)
            try:
                either: set[asyncio.Future[Any]] = {task, follower.own}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:  # its client left, or its time is up
                execution.leave(follower)
                raise
        if not execution.is_recorded:
            call.answer_headers[STATE] = "unavailable"
        if follower.own.done():
            return self._own_answer(follower, execution)
        outcome = _result(task)
        is_replay = outcome.maker is not follower
        self._note(call, "replayed" if is_replay else "first" if execution.is_recorded else "unavailable")
        if is_replay:
            await admit_replay(call)
        return outcome.recorded.response(is_replay=is_replay)

    @contextlib.asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """At the end of the process, end what still runs, so that another replica takes it over at once."""
        try:
            yield
        finally:
            tasks = [task for _, task in self._under_way.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_S)

    async def _join(self, name: str, body: str, follower: Follower) -> tuple[Execution, asyncio.Task[Outcome]]:
        while (found := self._under_way.get(name)) is not None and found[0].is_ending:
            await asyncio.wait({found[1]})
        if found is None:
            execution = Execution(name, body, tenant=follower.call.caller.tenant, records=self._records)
            execution.join(follower)
            found = self._under_way[name] = (execution, asyncio.create_task(execution.run()))
            found[1].add_done_callback(lambda task: self._forget(name, task))
        elif found[0].body != body:
            raise IdempotencyKeyReused("This Idempotency-Key was used with another request body.", param=HEADER)
        else:
            found[0].join(follower)
        return found

    def _forget(self, name: str, task: asyncio.Task[Outcome]) -> None:
        del self._under_way[name]
        if not task.cancelled():
            task.exception()  # taken note of: nobody may be left to hear it

    def _own_answer(self, follower: Follower, execution: Execution) -> Response:
        recording: Recording = follower.own.result()
        self._note(follower.call, "first" if execution.is_recorded else "unavailable")
        if not recording.is_live and recording.recorded is not None:
            return recording.recorded.response(is_replay=False)

        async def finish(_: ServiceError | None) -> None:
            recording.unfollow()
            execution.leave(follower)

        return EventStream(recording.follow(), finish=finish, headers=recording.headers)

    def _note(self, call: Call, what: str) -> None:
        self.outcomes[what,] += 1
        call.log["idempotency"] = what
        call.decision.note("idempotency", what)

    def _digest(self, kind: bytes, *parts: str | bytes) -> str:
        mac = hmac.new(self._secret, kind, hashlib.sha256)
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            mac.update(len(data).to_bytes(8, "big") + data)
        return mac.hexdigest()


def _result(task: asyncio.Task[Outcome]) -> Outcome:
    try:
        return task.result()
    except ServiceError as error:
        raise copy.copy(error) from None  # one for each of those who are told
