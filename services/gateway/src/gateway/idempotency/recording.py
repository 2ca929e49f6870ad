"""An answer, recorded as it is sent: the server's side of ASGI, so that whatever makes answers need not know of it."""

from __future__ import annotations

import asyncio
import collections
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import orjson
from starlette.responses import Response

from common import wire
from common.streams.event_stream import AlreadyToldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Message

REPLAYED = "idempotent-replayed"
"""`true` on an answer that was not made for this request. The name is the one that Stripe gave it."""
MAX_BEHIND_BYTES = 64 * 1024
"""What is kept no more, and not read yet either, holds the recording up, as it would hold up its own stream."""
MAX_KEPT_BYTES = 32 * 2**20
_REFUSALS = frozenset({400, 413, 422})
"""What the same body gets again, whenever it is sent and whichever of a tenant's keys sends it, if the model's side
said so; what the platform refuses by itself depends on the key and on the day."""
_KEPT_HEADERS = frozenset(
    {"content-type", "cache-control", "x-accel-buffering", "age"}
    | {wire.CACHE, wire.ATTEMPTS, wire.MODEL, wire.TARGET, wire.SHOULD_RETRY}
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_final(self) -> bool:
        """Whether a retry gets this answer again. What may end otherwise next time is not: 429, 5xx, timeouts."""
        if self.status in _REFUSALS:
            return self.headers.get(wire.ATTEMPTS, "0") != "0"
        return 200 <= self.status < 300  # noqa: PLR2004  # the range is the meaning

    def response(self, *, is_replay: bool) -> Response:
        headers = self.headers | ({REPLAYED: "true"} if is_replay else {})
        return Response(self.body, self.status, headers)

    def to_bytes(self) -> bytes:
        headers = {name: value for name, value in self.headers.items() if name in _KEPT_HEADERS}
        return orjson.dumps([self.status, headers]) + b"\n" + self.body

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, _, body = data.partition(b"\n")
        status, headers = orjson.loads(head)
        return cls(status, headers, body)


class Recording:
    """Takes an answer's ASGI messages. A streamed one may be followed by one reader, whatever its length, and is kept
    up to `MAX_KEPT_BYTES`.
    """

    def __init__(self, *, is_stream: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_live = False
        """Its reader reads it while it grows."""
        self.is_whole = False
        """The last body message has come: an answer that ends without it broke off."""
        self._max_bytes = MAX_KEPT_BYTES if is_stream else math.inf  # a whole answer is in memory already
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._unread: collections.deque[bytes] | None = collections.deque() if is_stream else None
        self._behind_bytes = 0
        self._is_over = False
        self._grown = asyncio.Event()
        self._read = asyncio.Event()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            self.headers.pop("content-length", None)
        else:
            self._take(message.get("body", b""))
            self.is_whole = not message.get("more_body", False)
        self._grown.set()
        while self._kept is None and self._unread is not None and self._behind_bytes > MAX_BEHIND_BYTES:
            self._read.clear()
            await self._read.wait()

    def _take(self, chunk: bytes) -> None:
        self._kept_bytes += len(chunk)
        if self._kept is not None and self._kept_bytes <= self._max_bytes:
            self._kept.append(chunk)
        else:
            self._kept = None
        if self._unread is not None and chunk:
            self._unread.append(chunk)
            self._behind_bytes += len(chunk)

    @property
    def recorded(self) -> Recorded | None:
        """None: it was too large."""
        return None if self._kept is None else Recorded(self.status, self.headers, b"".join(self._kept))

    def close(self) -> None:
        """Nothing more will come."""
        self._is_over = True
        self._grown.set()

    async def follow(self) -> AsyncIterator[bytes]:
        """What is sent, as it is sent. Raises `AlreadyToldError` when it broke off: what was sent says so already."""
        while self._unread or not self._is_over:
            while self._unread:
                chunk = self._unread.popleft()
                self._behind_bytes -= len(chunk)
                self._read.set()
                yield chunk
            if not self._is_over:
                await self._wait()
        if not self.is_whole:
            raise AlreadyToldError("The answer broke off before its end.")

    def unfollow(self) -> None:
        """The reader has left: nothing is held up for it any more."""
        self._unread = None
        self._read.set()

    async def _wait(self) -> None:
        self._grown.clear()
        await self._grown.wait()
