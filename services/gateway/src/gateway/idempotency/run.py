"""One making of an answer, for one of the requests that want it, detached from that request's connection."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from common import wire
from common.errors import ServiceError
from gateway.idempotency.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response
    from starlette.types import Message

    from gateway.call import Call

_OK = 200


@dataclass(eq=False, slots=True)
class Follower:
    """One request that waits for the answer."""

    call: Call
    answer: Callable[[Call], Awaitable[Response]]
    own: asyncio.Future[Recording] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Set when a recording is this follower's alone: a stream that it may read from its first event, or a failure that
    need not be the others'."""


class Run:
    """Makes the answer for `maker` with an ending of its own, so that what the work holds outlives the maker's request
    if need be. `stop` looks to the work as if its client had left.
    """

    def __init__(self, maker: Follower) -> None:
        self.maker = maker
        self.recording = Recording(is_stream=maker.call.is_stream)
        self._stopped = asyncio.Event()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    async def perform(self) -> None:
        async with contextlib.AsyncExitStack() as ending:
            call = replace(self.maker.call, ending=ending, receive=self._receive)
            try:
                try:
                    response = await self.maker.answer(call)
                except ServiceError as error:
                    response = error.response()
                await response({"type": "http"}, self._receive, self._send)
            finally:
                self.recording.close()

    async def _receive(self) -> Message:
        await self._stopped.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self.maker.call.is_stream:
            is_events = dict(message["headers"]).get(b"content-type", b"").startswith(wire.EVENT_STREAM.encode())
            if message["status"] == _OK and is_events:
                self.recording.is_live = True
                self.maker.own.set_result(self.recording)
            else:
                self.recording.unfollow()
        await self.recording.send(message)
