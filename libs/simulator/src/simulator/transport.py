"""uvicorn's HTTP protocol, with the connection's transport in reach of the application.

ASGI can end an answer well or not at all; a simulator of bad upstreams has to end *connections*, in two ways that TCP
tells apart: FIN (an orderly close, here in mid-answer) and RST (a reset).
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

_EXTENSION = "spillway.transport"
_INT = struct.Struct("i")
_LINGER_0 = struct.pack("ii", 1, 0)


class SimulatorProtocol(HttpToolsProtocol):
    """Run the simulator's app with `http=SimulatorProtocol`; without it, `how=fin` and `how=rst` are refused."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}


def transport_of(scope: Mapping[str, Any]) -> asyncio.Transport | None:
    extension = scope.get("extensions", {}).get(_EXTENSION)
    return extension["transport"] if extension else None


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that a reset would take back: those that wait here, and those that wait in the kernel for their ACK.

    Source: tcp(7), SIOCOUTQ. Ten small segments fill TCP's first window, so even a fast reader may lag behind.
    """
    waiting = transport.get_write_buffer_size()
    with contextlib.suppress(OSError):  # a system that does not tell
        waiting += _INT.unpack(
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        )[0]
    return waiting


def reset(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN: zero linger discards what is unsent. Source: socket(7), SO_LINGER."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    transport.abort()
