"""What a request's head may be. Whatever breaks a rule ends the parsing with the answer that says so.

The parser itself (llhttp, strict) refuses a Content-Length beside a Transfer-Encoding, two of either, obsolete folding,
bare line feeds and bad chunk sizes. Measured without these rules: a 1 MB header, 10,000 headers, none or two `Host`,
two `Authorization` and HTTP/0.9 are accepted.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.guard.door import Door
from common.guard.refusals import RefusedError, bad_request, head_too_large, method_not_allowed, refusal

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 * 1024

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} [\x21-\x7e]{1,8192} HTTP/1\.[01]\r\n")
_KEPT = frozenset({b"x-spillway-priority", b"x-spillway-replay", b"x-spillway-max-attempts"})
_SUSPECT = (b"x-spillway-", b"x-forwarded-", b"forwarded", b"x-real-ip")
_ONCE = {
    b"host": "Host",
    b"authorization": "Authorization",
    b"content-type": "Content-Type",
    b"idempotency-key": "Idempotency-Key",
}
"""Of two, one reader takes the first and another the last: who calls, what is read, what runs once must be certain."""


class HeadReader(HttpToolsProtocol):
    """uvicorn's protocol with these rules. A request that breaks one leaves its answer in `_refusal`."""

    door: ClassVar[Door] = Door()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal: bytes | None = None
        self._in_head = True
        """The next thing to come is a head, or more of one."""
        self._size = 0
        self._said_once: dict[bytes, bytes] = {}
        self._framing: list[bytes] = []
        self._is_edge = self.door.is_edge
        self._is_behind_proxy = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._size = 0
        self._said_once = {}
        self._framing = []

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._refuse(refusal(414, "uri_too_long", "The request's target is too long."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: RFC 9110, 6.5.1, lets a server ignore it, and nothing of it may authenticate
        name = name.lower()
        if name in _ONCE:
            if name in self._said_once:
                self._refuse(_bad_host() if name == b"host" else _repeated(_ONCE[name]))
            self._said_once[name] = value
        elif name in (b"transfer-encoding", b"content-length"):
            self._framing.append(value.lower() if name == b"transfer-encoding" else b"")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif self._is_edge and (b"_" in name or name.startswith(_SUSPECT)) and self._is_forged(name):
            return
        self._size += len(name) + len(value)
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._refuse(head_too_large())

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._check_head()
        super().on_headers_complete()
        if b"%" in self.url and not self.scope["raw_path"].startswith(self.door.decoded_below):
            # What stands in front decides by the path as it is sent: `/admin%2fkeys` must not come to `/admin/keys`.
            self.scope["path"] = self.scope["raw_path"].decode("ascii")

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def _is_forged(self, name: bytes) -> bool:
        if b"_" in name:  # some gateways behind a proxy read `_` as `-`; no client needs it
            return True
        if name.startswith(b"x-spillway-"):
            return name not in _KEPT
        return not self._is_behind_proxy

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(bad_request("The protocol has to be HTTP/1.1."))
        if self._size + len(self.url) > MAX_HEAD_BYTES:
            self._refuse(head_too_large())
        if self.parser.get_method() in (b"CONNECT", b"TRACE"):
            self._refuse(method_not_allowed())
        self._check_host()
        if b"#" in self.url:  # RFC 9112, 3.2: a target has no fragment
            self._refuse(bad_request("The request's target has a fragment."))
        if len(self._framing) > 1 or (self._framing and self._framing[0] not in (b"", b"chunked")):
            self._refuse(bad_request("The length of the request's body is ambiguous."))
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
            if self._framing and self._framing[0]:
                self._refuse(bad_request("HTTP/1.0 knows no Transfer-Encoding."))  # RFC 9112, 6.1
        if self.parser.should_upgrade() and (self._framing or self._get_upgrade() == b"websocket"):
            # Any other upgrade is ignored; but then the parser reads no body, so who sends one is told.
            self._refuse(refusal(426, "upgrade_refused", "Nothing is upgraded.", further=b"upgrade: HTTP/1.1\r\n"))

    def _check_host(self) -> None:
        host = self._said_once.get(b"host")
        if host is None or not _HOST.fullmatch(host):
            self._refuse(_bad_host())
        if self.url[:1] != b"/" and self.url != b"*":
            absolute = _ABSOLUTE.match(self.url)
            if absolute is None or absolute[1].lower() != host.lower():
                self._refuse(refusal(400, "bad_host", "The request's target and its Host header differ."))

    def _refuse(self, answer: bytes) -> NoReturn:
        self._refusal = answer
        raise RefusedError


def unreadable(error: httptools.HttpParserError, data: bytes) -> bytes:
    """The answer to what the parser could not read, `data`, if that began with it."""
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _REQUEST_LINE.match(data):
        return method_not_allowed()  # else it may be anything: a TLS hello has no method either
    return bad_request("This is no valid HTTP/1.1 request.")


def _bad_host() -> bytes:
    return refusal(400, "bad_host", "The request needs exactly one valid Host header.")


def _repeated(header: str) -> bytes:
    return bad_request(f"The request has more than one {header} header.", param=header)
