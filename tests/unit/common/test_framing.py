from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import framing
from common.errors import InvalidRequest


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_what_is_packed_is_unpacked(frames: list[bytes]) -> None:
    assert framing.unpack(framing.pack(frames)) == frames


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 7))
def test_frames_that_come_in_parts_are_taken_as_they_get_whole(frames: list[bytes], size: int) -> None:
    body = framing.pack(frames)
    taken: list[bytes] = []
    rest = b""
    for start in range(0, len(body), size):
        whole, rest = framing.take(rest + body[start : start + size])
        taken += whole
    assert (taken, rest) == (frames, b"")


@pytest.mark.parametrize("body", [b"\x00", b"\x00\x00\x00", b"\x00\x00\x00\x02a", b"\x00\x00\x00\x01ab"])
def test_a_body_that_is_cut_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        framing.unpack(body)
