"""Several byte strings in one body: each after its length, 4 bytes, big-endian."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from common.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = struct.Struct(">I")
KEEP_ALIVE = _LENGTH.pack(0)
"""An empty frame: the other side is there and has nothing to say."""


def pack(frames: Iterable[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def take(data: bytes) -> tuple[list[bytes], bytes]:
    """The frames that are whole so far, and what is left of the data."""
    frames = []
    place = 0
    while (start := place + _LENGTH.size) <= len(data):
        (length,) = _LENGTH.unpack_from(data, place)
        if start + length > len(data):
            break
        place = start + length
        frames.append(data[start:place])
    return frames, data[place:]


def unpack(body: bytes) -> list[bytes]:
    """Raises `InvalidRequest` when the lengths do not add up."""
    frames, rest = take(body)
    if rest:
        raise InvalidRequest("The frames of the body are cut.", code="bad_frames")
    return frames
