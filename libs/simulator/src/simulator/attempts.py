"""The log of attempts: what reached this upstream and how it ended, for tests that trust no other witness."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_PROMPTS_COUNTED = 100_000  # prompts whose attempts are remembered; the oldest go first
_NEUTRAL = frozenset({"stream", "stream_options", "user", "metadata", "store"})
_SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"api-key", b"x-api-key", b"cookie"})


class Attempt:
    """One call. Times are `time.monotonic()` seconds of the simulator's process, None while they have not happened.

    `finished`: the simulator did all it meant to do, a scripted fault included. `cancelled`: the client left before.
    `number` counts the attempts of the same prompt; `chunks` are SSE events, `[DONE]` aside; `fault` is the `how` of
    a fault that was scripted for this attempt.
    """

    __slots__ = (
        "_headers",
        "cancelled",
        "chunks",
        "fault",
        "finished",
        "first_byte",
        "model",
        "number",
        "path",
        "prompt",
        "received",
        "request_id",
        "seq",
        "status",
        "stream",
    )

    def __init__(self, seq: int, path: str, headers: Iterable[tuple[bytes, bytes]], received: float) -> None:
        self.seq = seq
        self.path = path
        self.received = received
        self.request_id: str | None = None
        self.model: str | None = None
        self.stream = False
        self.prompt: str | None = None
        self.number: int | None = None
        self.first_byte: float | None = None
        self.finished: float | None = None
        self.cancelled: float | None = None
        self.chunks = 0
        self.status: int | None = None
        self.fault: str | None = None
        # One bytes object instead of forty small ones: a tenth of the memory, and the secrets are gone at once.
        lines = []
        for name, value in headers:
            if name == b"x-request-id":
                self.request_id = value.decode("latin-1")
            lines.append(name + b":" + (b"[redacted]" if name in _SECRET_HEADERS else value))
        self._headers = b"\n".join(lines)

    @property
    def headers(self) -> dict[str, str]:
        lines = self._headers.decode("latin-1").split("\n") if self._headers else []
        return {name: value for name, _, value in (line.partition(":") for line in lines)}

    def as_dict(self) -> dict[str, Any]:
        """Everything public, ready for JSON."""
        names = [name for name in self.__slots__ if not name.startswith("_")]
        return {name: getattr(self, name) for name in names} | {"headers": self.headers}


class AttemptLog:
    """The last `size` attempts, and how often each prompt was tried."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._attempts: deque[Attempt] = deque(maxlen=size)
        self._numbers: dict[str, int] = {}
        self._seq = itertools.count(1)
        self._clock = clock

    def open(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Attempt:
        attempt = Attempt(next(self._seq), path, headers, self._clock())
        self._attempts.append(attempt)
        return attempt

    def identify(self, attempt: Attempt, body: Mapping[str, Any]) -> int:
        """Note what the attempt asks for and return its number: 1 for the first attempt of this prompt.

        A prompt is the value of `messages` or `input`: the same prompt for another model or tenant is the same prompt.
        """
        model = body.get("model")
        attempt.model = model if isinstance(model, str) else None
        attempt.stream = body.get("stream") is True
        attempt.prompt = prompt = prompt_hash(body)
        attempt.number = number = self._numbers.pop(prompt, 0) + 1
        if len(self._numbers) >= _PROMPTS_COUNTED:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[prompt] = number
        return number

    def select(self, *, after: int = 0, model: str | None = None, request_id: str | None = None) -> list[Attempt]:
        """The attempts with a larger `seq` than `after`, oldest first, of one model or request id if given."""
        return [
            attempt
            for attempt in self._attempts
            if attempt.seq > after
            and (model is None or attempt.model == model)
            and (request_id is None or attempt.request_id == request_id)
        ]

    def clear(self) -> None:
        """Forget attempts and counts. `seq` goes on, so that an `after` from before stays valid."""
        self._attempts.clear()
        self._numbers.clear()


def prompt_hash(body: Mapping[str, Any]) -> str:
    """16 hexadecimal digits. Prompts themselves are never kept."""
    prompt = orjson.dumps(body.get("messages", body.get("input")), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(prompt, digest_size=8).hexdigest()


def body_hash(body: Mapping[str, Any]) -> str:
    """16 hexadecimal digits over all that may change an answer: every field that is not neutral."""
    rest = {name: value for name, value in body.items() if name not in _NEUTRAL}
    return hashlib.blake2b(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
