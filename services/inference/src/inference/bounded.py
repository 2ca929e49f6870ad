"""Reads an upstream's body under a bound on its bytes, whatever it is the body of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from inference.upstream import malformed, transport_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_ERROR_BYTES = 64 * 1024
"""Of an answer that is an error; what comes after is not read."""
_OK = range(200, 300)


async def read(response: httpx2.Response, max_bytes: int) -> bytes:
    """The whole body; the response is closed. Raises `AttemptFailedError`."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > max_bytes:
                raise malformed()
    except httpx2.HTTPError as error:
        raise transport_failure(error) from error
    finally:
        await response.aclose()
    return bytes(body)


async def cap_error(response: httpx2.Response) -> None:
    """A hook for a client's responses: the SDK reads the body of an error to its end, however long that takes it."""
    if response.status_code not in _OK and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Capped(response.stream)
        response.headers.pop(
            "content-encoding", None
        )  # identity was asked for; 64 KiB can unpack to a thousand times that


class _Capped(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ERROR_BYTES
        async for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()
