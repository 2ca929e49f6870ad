"""Replays a job's request against the gateway, on the tenant's behalf, and says what came of it.

The gateway judges it as any request of that tenant, at batch priority. A replay gets one upstream attempt: the job has
its own, and three times three would be nine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from common import wire
from common.errors import envelope
from common.identity import HopIdentity, HopSigner
from common.streams import sse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from jobs.record import Claim

CONNECT_S = 1.0
_OK = 200
_DELAYED = frozenset({429, 503})
_REPEATED = frozenset({408, 409, 425, 499})
"""4xx that say nothing about the request itself."""
_UNAUTHENTICATED = 401
_MAX_EVENT_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_CODE = re.compile(r"[a-z0-9_]{1,64}")
_BOUNDARY = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Succeeded:
    status: int
    body: bytes
    """Empty of a streamed answer: its chunks have been handed over one by one."""


@dataclass(frozen=True, slots=True)
class Failed:
    """For good: the same request would fail again."""

    status: int
    error: bytes
    """OpenAI's error object, as JSON."""
    code: str


@dataclass(frozen=True, slots=True)
class Delayed:
    """Nobody is to blame: try again later."""

    retry_after_s: float | None
    code: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """Another attempt may succeed."""

    error: bytes
    code: str


def _described(message: str, code: str) -> bytes:
    error: dict[str, Any] = orjson.loads(envelope(message, type_="server_error", code=code))["error"]
    return orjson.dumps(error)


def attempt_failed(message: str, code: str) -> AttemptFailed:
    return AttemptFailed(_described(message, code), code)


def failed(message: str, code: str) -> Failed:
    """By a bound of ours, whatever the gateway's answer was."""
    return Failed(_OK, _described(message, code), code)


TOO_LARGE = failed("The result is too large to be kept.", "result_too_large")
Outcome = Succeeded | Failed | Delayed | AttemptFailed


class Replayer:
    def __init__(self, client: httpx2.AsyncClient, signer: HopSigner, *, max_result_bytes: int) -> None:
        self._client = client
        self._signer = signer
        self._max_result_bytes = max_result_bytes

    async def send(
        self, claim: Claim, body: bytes, *, timeout_s: float, sink: Callable[[list[bytes]], Awaitable[None]]
    ) -> Outcome:
        """Run one attempt. Chunks of a streamed answer go to `sink` as they come, several at a time if it is slow."""
        record = claim.record
        headers = {
            "authorization": self._signer.authorization(HopIdentity(record.tenant, record.key_id, "batch")),
            "content-type": wire.JSON,
            wire.TIMEOUT_MS: str(max(1, int(timeout_s * 1000))),
            wire.MAX_ATTEMPTS: "1",
        }
        timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        request = self._client.build_request("POST", record.endpoint, content=body, headers=headers, timeout=timeout)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return Delayed(None, "gateway_unreachable")  # no byte was sent: no attempt was made
        except httpx2.TimeoutException:
            return attempt_failed("The attempt took too long.", "attempt_timeout")
        except httpx2.HTTPError:
            return attempt_failed("The gateway broke the connection.", "gateway_failed")
        try:
            return await self._outcome(response, sink)
        except httpx2.TimeoutException:
            return attempt_failed("The answer stalled before its end.", "attempt_timeout")
        except httpx2.HTTPError:
            return attempt_failed("The answer broke off before its end.", "stream_interrupted")
        finally:
            await response.aclose()

    async def _outcome(self, response: httpx2.Response, sink: Callable[[list[bytes]], Awaitable[None]]) -> Outcome:
        status = response.status_code
        if status == _OK:
            if response.headers.get("content-type", "").startswith(wire.EVENT_STREAM):
                return await _streamed(response.aiter_raw(), sink)
            body = await _read(response, self._max_result_bytes)
            return TOO_LARGE if body is None else _whole(body)
        error, code = _error(await _read(response, _MAX_ERROR_BYTES) or b"")
        if status in _DELAYED or (status == _UNAUTHENTICATED and code == "invalid_hop_token"):
            return Delayed(_retry_after_s(response), code)  # a refused token is our fault, not the job's
        if status >= 500 or status in _REPEATED:  # noqa: PLR2004  # the class of server errors
            return AttemptFailed(error, code)
        return Failed(status, error, code)


def _whole(body: bytes) -> Outcome:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return attempt_failed("The answer was not JSON.", "malformed_answer")
    return Succeeded(_OK, body)


async def _read(response: httpx2.Response, limit: int) -> bytes | None:
    """The body, None when it is larger than `limit`."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit:
            return None
    return bytes(body)


async def _streamed(parts: AsyncIterator[bytes], sink: Callable[[list[bytes]], Awaitable[None]]) -> Outcome:
    """Hand over the chunks; the gateway sends `[DONE]` only after a complete answer."""
    rest = b""
    async for part in parts:
        *events, rest = _BOUNDARY.split(rest + part)
        if len(rest) > _MAX_EVENT_BYTES:
            return attempt_failed("The answer's stream was malformed.", "stream_malformed")
        chunks: list[bytes] = []
        for event in events:
            data = sse.data_of(event)
            if data is None:
                continue  # a comment
            if data == b"[DONE]":
                if chunks:
                    await sink(chunks)
                return Succeeded(_OK, b"")
            if data.startswith(b'{"error"'):
                error, code = _error(data)
                return AttemptFailed(error, code)
            chunks.append(data)
        if chunks:
            await sink(chunks)
    return attempt_failed("The answer ended before it was complete.", "stream_interrupted")


def _error(body: bytes) -> tuple[bytes, str]:
    """The error object of an answer, and its code if that is a word of ours or an upstream's short one."""
    try:
        error: dict[str, Any] = orjson.loads(body)["error"]
        code = error.get("code")
        return orjson.dumps(error), code if isinstance(code, str) and _CODE.fullmatch(code) else "request_failed"
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return _described("The request failed.", "request_failed"), "request_failed"


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds; a date, or nonsense, counts as nothing said."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None
