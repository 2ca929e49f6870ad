"""A client down to its socket: it leaves in the two ways that TCP knows."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from support.platform import BOUND_S

if TYPE_CHECKING:
    from support.platform import Platform

_RST = struct.pack("ii", 1, 0)


class Wire:
    """A connection that has sent one chat request to the gateway."""

    def __init__(self, stack: Platform, body: dict[str, Any]) -> None:
        url = urlsplit(stack.gateway)
        payload = json.dumps(body).encode()
        self.socket = socket.create_connection((url.hostname, url.port), BOUND_S)
        self.socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (stack.key.encode(), len(payload), payload)
        )

    def read_until(self, mark: bytes, times: int = 1) -> bytes:
        data = b""
        while data.count(mark) < times:
            part = self.socket.recv(65_536)
            assert part, data
            data += part
        return data

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with RST instead of FIN. Source: socket(7), SO_LINGER."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.socket.close()
