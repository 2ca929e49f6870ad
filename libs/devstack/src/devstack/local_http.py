"""Small JSON requests with nothing but the standard library, so that `up` and `trace` start fast and stay small."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

# No proxy: what is asked is on this machine, or reached by a service that uses none either.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class UnreachableError(Exception):
    """No HTTP answer came: refused, timed out, broken off, or the URL is none."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """Parse the body. Raises `ValueError` when it is not JSON."""
        return json.loads(self.body)


def request(
    url: str,
    *,
    method: str | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 3,
) -> Answer:
    """GET, or POST when there is a body, unless a method is named. An error status is an answer like any other.

    Raises `UnreachableError`.
    """
    data = None if body is None else json.dumps(body).encode()
    sent = {"accept": "application/json", **({"content-type": "application/json"} if data else {}), **(headers or {})}
    try:
        message = urllib.request.Request(url, data=data, headers=sent, method=method)  # noqa: S310  # our own URLs or the operator's
        with _OPENER.open(message, timeout=timeout_s) as response:
            return _answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.headers, error.read())
    except urllib.error.URLError as error:
        raise UnreachableError(_reason(error.reason)) from error
    except (OSError, ValueError) as error:  # while reading; not a URL
        raise UnreachableError(_reason(error)) from error


def _answer(status: int, headers: Message, body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
