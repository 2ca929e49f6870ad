"""What uvicorn lets through: slow, oversized, ambiguous and forged requests. Refused before any application sees them.

Here is the connection: how many there may be, how long what is incomplete may take, and how one ends. What a head may
be stands in `common.guard.head`. Measured without this: sockets that say nothing for more than 75 s are accepted.
"""

from __future__ import annotations

import resource
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import httptools

from common.guard.chunks import ChunkReader
from common.guard.door import Door, Network, is_in, unmapped
from common.guard.head import MAX_HEAD_BYTES, unreadable
from common.guard.open_bodies import until_closed
from common.guard.refusals import Told, bad_request, code_of, head_too_large, refusal
from common.telemetry.refusals import Refusals

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

LINGER_S = 2
"""How long what a refused client still sends is thrown away: to close over unread bytes is a reset, which may overtake
the answer."""
PARTING_HEAD_S = 2
"""How long a server that stops waits for the rest of a head that has begun."""
_HEAD_END = b"\r\n\r\n"
_told = Told()


def guarded(door: Door, refusals: Refusals | None = None) -> type[HttpGuard]:
    """The protocol class for uvicorn's `http=`; its connections count together, and what it refuses in `refusals`."""
    attributes = {
        "door": door,
        "proxies": door.networks(),
        "per_address": Counter(),
        "refusals": refusals or Refusals(),
    }
    return type("HttpGuard", (HttpGuard,), attributes)


class HttpGuard(ChunkReader):
    proxies: ClassVar[list[Network]] = []
    per_address: ClassVar[Counter[str]] = Counter()
    refusals: ClassVar[Refusals] = Refusals()
    most_connections: ClassVar[int] = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    """The other half of the descriptors is for the connections that this service opens itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        """Refused: whatever arrives is thrown away."""
        self._has_begun = False
        self._requests = 0
        self._head_bytes = 0
        self._address = ""
        self._began_at = 0.0
        self._is_leaving = False
        """The server stops: the next answer is the connection's last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._began_at = self.loop.time()
        self._address = ""
        if self.client:
            # Also in the scope: who counts by network would otherwise hold all of IPv4 for one /56.
            self.client = (unmapped(self.client[0]), self.client[1])
            self._address = self.client[0]
        self._is_behind_proxy = bool(self.proxies) and is_in(self._address, self.proxies)
        self.per_address[self._address] += 1
        cap = self.door.connections_per_address
        if len(self.connections) > self.most_connections:
            self._end(refusal(503, "too_many_connections", "Too many connections.", retry_after_s=1))
        elif cap and not self._is_behind_proxy and self.per_address[self._address] > cap:
            self._end(refusal(429, "too_many_connections", "Too many connections from your address.", retry_after_s=1))
        else:
            self._start_timer(self.door.header_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.per_address[self._address] -= 1
        if self.per_address[self._address] <= 0:
            del self.per_address[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._unset_keepalive_if_required()
        requests = self._requests
        was_idle = self._in_head and not self._has_begun
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing is upgraded; see `on_headers_complete`
        except httptools.HttpParserError as error:
            is_first = self._requests - requests <= 1
            self._end(self._refusal or unreadable(error, data if is_first else b""))
        else:
            self._await_the_rest(data, is_idle=was_idle and requests == self._requests)

    def _await_the_rest(self, data: bytes, *, is_idle: bool) -> None:
        """Bound the time and size of what is incomplete. Most requests arrive at once and need no timer at all.

        `is_idle`: between two requests something came that begins none.
        """
        if not self._in_head:
            if self._announces_too_much(data):
                self._end(refusal(413, "payload_too_large", "The request's body is too large."))
            elif self._timer is None:
                self._start_timer(self.door.body_timeout_s, self._body_is_late)
        elif self._has_begun or is_idle:
            if self._has_begun and self._head_bytes > MAX_HEAD_BYTES:  # a value that does not end is seen only here
                self._end(head_too_large())
            elif self._timer is None:
                self._start_timer(self.door.header_timeout_s, self._head_is_late)

    def eof_received(self) -> None:
        if self._is_over:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._began_at = self.loop.time()
        self._has_begun = True
        self._requests += 1
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()
        if self.parser.should_upgrade() or self._is_leaving:
            # The parser reads nothing after an upgrade; the application answers as if none had been asked for.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._has_begun = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]  # uvicorn has types of its own
        if cycle.scope["http_version"] == "1.0":
            app = until_closed(app, cycle)
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]  # as above

    def send_400_response(self, msg: str) -> None:
        self._end(bad_request(msg))

    def shutdown(self) -> None:
        """Leave clients time to let go of connections that they were promised: to close one may meet its next request.

        uvicorn closes idle connections at once, and busy ones right behind an answer whose head said nothing of it.
        """
        self._is_leaving = True
        if self._has_begun and self._in_head and self._is_unoccupied():
            self._start_timer(min(self.door.header_timeout_s, PARTING_HEAD_S), self._head_is_late)
        elif not self.door.linger_s or self.cycle is None:
            super().shutdown()
        elif self.timeout_keep_alive_task is not None:
            ended_at = self.timeout_keep_alive_task.when() - self.timeout_keep_alive
            self._unset_keepalive_if_required()
            rest_s = ended_at + self.door.linger_s - self.loop.time()
            self.timeout_keep_alive_task = self.loop.call_later(max(0, rest_s), self.timeout_keep_alive_handler)
        elif self.cycle.response_started and not self.cycle.response_complete:
            self.timeout_keep_alive = self.door.linger_s
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # an answer that nobody reads: to close would wait for its reader
        super().timeout_keep_alive_handler()

    def _end(self, answer: bytes) -> None:
        """Send a whole answer, or nothing if one is under way, and close once the client has had time to read it."""
        self._stop_timer()
        self._is_over = True
        _told.tell(answer)
        self.refusals.count(code_of(answer), "platform")
        if self.door.is_edge:
            took_ms = (self.loop.time() - self._began_at) * 1000
            answer = answer.replace(_HEAD_END, b"\r\nserver-timing: total;dur=%.2f" % took_ms + _HEAD_END, 1)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(LINGER_S, self.transport.abort)

    def _head_is_late(self) -> None:
        if self._has_begun:
            self._end(refusal(408, "header_timeout", "The request's headers did not arrive in time."))
        elif self._is_unoccupied():
            self.transport.close()  # it never asked for anything

    def _is_unoccupied(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _body_is_late(self) -> None:
        """Below the application's own limit, for what it does not read itself."""
        if self.flow.read_paused:  # it is we who do not read
            self._start_timer(self.door.body_timeout_s, self._body_is_late)
            return
        self._end(refusal(408, "body_timeout", "The request body did not arrive in time."))

    def _start_timer(self, seconds: float, expired: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
