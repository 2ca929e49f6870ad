"""What is said to a request that no application gets to see: one whole answer in our one shape, then the end."""

from __future__ import annotations

import logging
from http import HTTPStatus
from uuid import uuid4

import orjson

from common.errors import envelope

logger = logging.getLogger(__name__)

_TYPES = {429: "rate_limit_error", 503: "server_error"}
_LINES_ONE_IN = 100


class RefusedError(Exception):
    """Ends the parsing of a request."""


def refusal(  # noqa: PLR0913  # an answer's parts, most by keyword
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    retry_after_s: int | None = None,
    further: bytes = b"",
) -> bytes:
    """A whole answer with our error envelope, after which the connection is closed. `further`: lines of its head."""
    body = envelope(message, type_=_TYPES.get(status, "invalid_request_error"), param=param, code=code)
    if retry_after_s is not None:
        further += b"retry-after: %d\r\n" % retry_after_s
    head = (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-request-id: req_%b\r\nx-trace-id: %b\r\nconnection: close\r\n%b\r\n"
    )
    digits = uuid4().hex.encode()  # of the trace as well, which nobody records
    return head % (status, HTTPStatus(status).phrase.encode(), len(body), digits, digits, further) + body


def bad_request(message: str, *, param: str | None = None) -> bytes:
    return refusal(400, "bad_request", message, param=param)


def head_too_large() -> bytes:
    return refusal(431, "headers_too_large", "The request's headers are too large or too many.")


def method_not_allowed() -> bytes:
    """A 405 and not the 501 of RFC 9110, 9.1: it is the caller's to mend, and no SDK should send it again."""
    allow = b"allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\n"
    return refusal(405, "method_not_allowed", "This method is not served.", further=allow)


def code_of(answer: bytes) -> str:
    return str(orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


class Told:
    """One log line for the first refusal and for each hundredth after it: a flood of bad requests is none of lines."""

    def __init__(self) -> None:
        self._count = 0

    def tell(self, answer: bytes) -> None:
        if self._count % _LINES_ONE_IN == 0:
            logger.info("request_refused_at_the_door", extra={"status": int(answer[9:12]), "count": self._count + 1})
        self._count += 1
