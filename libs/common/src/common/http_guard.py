"""What uvicorn lets through: slow, oversized, ambiguous and forged requests. Refused before any application sees them.

The parser itself (llhttp, strict) refuses a Content-Length beside a Transfer-Encoding, two of either, obsolete folding,
bare line feeds and bad chunk sizes; uvicorn refuses header values that would split an answer. All of that becomes an
answer in our one shape here. Measured without this guard: a 1 MB header, 10,000 headers, none or two `Host`, HTTP/0.9
and sockets that say nothing for more than 75 s are accepted.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import resource
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from common.errors import envelope
from common.telemetry.refusals import Refusals

if TYPE_CHECKING:
    import asyncio

    from uvicorn import Config
    from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 * 1024
HEADER_TIMEOUT_S = 10
LINGER_S = 2
"""How long what a refused client still sends is thrown away: to close over unread bytes is a reset, which may overtake
the answer."""

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_KEPT = frozenset({b"x-spillway-priority", b"x-spillway-replay", b"x-spillway-max-attempts"})
_HEAD_END = b"\r\n\r\n"
_SUSPECT = (b"x-spillway-", b"x-forwarded-", b"forwarded", b"x-real-ip")


@dataclass(frozen=True, slots=True)
class Door:
    """How a service is entered."""

    is_edge: bool = False
    """Clients come here: what they say of themselves in headers of ours, or of proxies, is taken out."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose `X-Forwarded-For` counts, and whose connections are not counted."""
    connections_per_address: int = 0
    """0: no cap."""
    body_timeout_s: float = 35
    linger_s: int = 0
    """When the server stops: how long an idle connection stays open after its last answer, if that did not close it."""
    header_timeout_s: float = HEADER_TIMEOUT_S


class _RefusedError(Exception):
    """Ends the parsing of a request; its answer is in `HttpGuard._refusal`."""


def guarded(door: Door, refusals: Refusals | None = None) -> type[HttpGuard]:
    """The protocol class for uvicorn's `http=`; its connections count together, and what it refuses in `refusals`."""
    networks = [ipaddress.ip_network(proxy, strict=False) for proxy in door.trusted_proxies]
    attributes = {"door": door, "proxies": networks, "per_address": Counter(), "refusals": refusals or Refusals()}
    return type("HttpGuard", (HttpGuard,), attributes)


class HttpGuard(HttpToolsProtocol):
    door: ClassVar[Door] = Door()
    proxies: ClassVar[list[ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
    per_address: ClassVar[Counter[str]] = Counter()
    refusals: ClassVar[Refusals] = Refusals()
    most_connections: ClassVar[int] = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    """The other half of the descriptors is for the connections that this service opens itself."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: bytes | None = None
        self._is_over = False
        """Refused: whatever arrives is thrown away."""
        self._in_head = True
        """The next thing to come is a head, or more of one."""
        self._has_begun = False
        self._requests = 0
        self._head_bytes = 0
        self._size = 0
        self._hosts: list[bytes] = []
        self._framing: list[bytes] = []
        self._address = ""
        self._began_at = 0.0
        self._is_leaving = False
        """The server stops: the next answer is the connection's last."""
        self._is_edge = self.door.is_edge
        self._is_behind_proxy = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._began_at = self.loop.time()
        self._address = ""
        if self.client:
            # Also in the scope: who counts by network would otherwise hold all of IPv4 for one /56.
            self.client = (unmapped(self.client[0]), self.client[1])
            self._address = self.client[0]
        self._is_behind_proxy = bool(self.proxies) and _is_in(self._address, self.proxies)
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
        except httptools.HttpParserError:
            self._end(self._refusal or refusal(400, "bad_request", "This is no valid HTTP/1.1 request."))
        else:
            self._await_the_rest(is_idle=was_idle and requests == self._requests)

    def _await_the_rest(self, *, is_idle: bool) -> None:
        """Bound the time and size of what is incomplete. Most requests arrive at once and need no timer at all.

        `is_idle`: between two requests something came that begins none.
        """
        if not self._in_head:
            if self._timer is None:
                self._start_timer(self.door.body_timeout_s, self._body_is_late)
        elif self._has_begun or is_idle:
            if self._has_begun and self._head_bytes > MAX_HEAD_BYTES:  # a value that does not end is seen only here
                self._end(_head_too_large())
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
        self._head_bytes = self._size = 0
        self._hosts = []
        self._framing = []

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._refuse(refusal(414, "uri_too_long", "The request's target is too long."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: RFC 9110, 6.5.1, lets a server ignore it, and nothing of it may authenticate
        name = name.lower()
        if name == b"host":
            self._hosts.append(value)
        elif name in (b"transfer-encoding", b"content-length"):
            self._framing.append(value.lower() if name == b"transfer-encoding" else b"")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif self._is_edge and (b"_" in name or name.startswith(_SUSPECT)) and self._is_forged(name):
            return
        self._size += len(name) + len(value)
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        self._check_head()
        super().on_headers_complete()
        if self.parser.should_upgrade() or self._is_leaving:
            # The parser reads nothing after an upgrade; the application answers as if none had been asked for.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_head = True
        self._has_begun = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._end(refusal(400, "bad_request", msg))

    def shutdown(self) -> None:
        """Leave clients time to let go of connections that they were promised: to close one may meet its next request.

        uvicorn closes idle connections at once, and busy ones right behind an answer whose head said nothing of it.
        """
        self._is_leaving = True
        if not self.door.linger_s or self.cycle is None:
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

    def _is_forged(self, name: bytes) -> bool:
        if b"_" in name:  # some gateways behind a proxy read `_` as `-`; no client needs it
            return True
        if name.startswith(b"x-spillway-"):
            return name not in _KEPT
        return not self._is_behind_proxy

    def _check_head(self) -> None:
        method = self.parser.get_method()
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse(refusal(400, "bad_request", "The protocol has to be HTTP/1.1."))
        if self._size + len(self.url) > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        if method in (b"CONNECT", b"TRACE"):
            self._refuse(refusal(405, "method_not_allowed", "This method is not served."))
        if len(self._hosts) != 1 or not _HOST.fullmatch(self._hosts[0]):
            self._refuse(refusal(400, "bad_host", "The request needs exactly one valid Host header."))
        if (absolute := None if self.url[:1] == b"/" else _ABSOLUTE.match(self.url)) is not None and absolute[
            1
        ].lower() != self._hosts[0].lower():
            self._refuse(refusal(400, "bad_host", "The request's target and its Host header differ."))
        if len(self._framing) > 1 or (self._framing and self._framing[0] not in (b"", b"chunked")):
            self._refuse(refusal(400, "bad_request", "The length of the request's body is ambiguous."))
        if self.parser.should_upgrade() and (self._framing or self._get_upgrade() == b"websocket"):
            # Any other upgrade is ignored; but then the parser reads no body, so who sends one is told.
            self._refuse(refusal(426, "upgrade_refused", "Nothing is upgraded.", further=b"upgrade: HTTP/1.1\r\n"))

    def _refuse(self, answer: bytes) -> None:
        self._refusal = answer
        raise _RefusedError

    def _end(self, answer: bytes) -> None:
        """Send a whole answer, or nothing if one is under way, and close once the client has had time to read it."""
        self._stop_timer()
        self._is_over = True
        _told.tell(answer)
        self.refusals.count(_code_of(answer), "platform")
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

    def _start_timer(self, seconds: float, expired: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def refusal(status: int, code: str, message: str, *, retry_after_s: int | None = None, further: bytes = b"") -> bytes:
    """A whole answer with our error envelope, after which the connection is closed."""
    type_ = {429: "rate_limit_error", 503: "server_error"}.get(status, "invalid_request_error")
    body = envelope(message, type_=type_, code=code)
    if retry_after_s is not None:
        further += b"retry-after: %d\r\n" % retry_after_s
    head = (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-request-id: req_%b\r\nx-trace-id: %b\r\nconnection: close\r\n%b\r\n"
    )
    digits = uuid4().hex.encode()  # of the trace as well, which nobody records
    return head % (status, HTTPStatus(status).phrase.encode(), len(body), digits, digits, further) + body


def _code_of(answer: bytes) -> str:
    return str(orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def _head_too_large() -> bytes:
    return refusal(431, "headers_too_large", "The request's headers are too large or too many.")


def unmapped(address: str) -> str:
    """An IPv4 client as itself, whom a socket that listens on `::` names `::ffff:192.0.2.1`.

    Source: RFC 4291, 2.5.5.2.
    """
    if not address.startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped) if mapped else address


def _is_in(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


class _Told:
    """One log line for the first refusal and for each hundredth after it: a flood of bad requests is none of lines."""

    def __init__(self) -> None:
        self._count = 0

    def tell(self, answer: bytes) -> None:
        if self._count % 100 == 0:
            logger.info("request_refused_at_the_door", extra={"status": int(answer[9:12]), "count": self._count + 1})
        self._count += 1


_told = _Told()
