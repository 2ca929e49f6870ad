"""Chunks that announce more than anybody would read: refused by their size line, for the parser waits for all of it."""

from __future__ import annotations

import re

from common.guard.head import HeadReader

MAX_CHUNK_BYTES = 2**31 - 1
"""Far above every body's cap, which is the application's to hold: what is below arrives, or is late."""
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]+)[^\n]*\r\n\Z")


class ChunkReader(HeadReader):
    """Knows the size of a chunk that is not complete, which the parser keeps to itself."""

    _chunk_bytes = -1
    """What came of the chunk whose size line stands in the data at hand; -1: none does, or it is complete."""

    def on_chunk_header(self) -> None:
        self._chunk_bytes = 0

    def on_chunk_complete(self) -> None:
        self._chunk_bytes = -1

    def on_body(self, body: bytes) -> None:
        if self._chunk_bytes >= 0:
            self._chunk_bytes += len(body)
        super().on_body(body)

    def _announces_too_much(self, data: bytes) -> bool:
        """Of `data` that the parser has read: it ends with what came of the chunk, right behind the size line."""
        if self._chunk_bytes < 0:
            return False
        before = data[: len(data) - self._chunk_bytes]
        self._chunk_bytes = -1
        line = _SIZE_LINE.search(before, before.rfind(b"\n", 0, -1) + 1)
        return line is not None and int(line[1], 16) > MAX_CHUNK_BYTES
