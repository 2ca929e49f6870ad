"""A server that does on the wire what a test tells it to, HTTP or not."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BOUND_S = 10
_RST = struct.pack("ii", 1, 0)


class Conversation:
    """One connection, of which the request's head has been read."""

    def __init__(self, wire: socket.socket, request: bytes, stopping: threading.Event) -> None:
        self._wire = wire
        self._stopping = stopping
        self.request = request

    def say(self, data: bytes) -> None:
        self._wire.sendall(data)

    def hear(self) -> bytes:
        """What the other side says next; nothing when it has left."""
        return self._wire.recv(65_536)

    def reset(self) -> None:
        """Close with RST instead of FIN. Source: socket(7), SO_LINGER."""
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self._wire.close()

    def stay_silent(self) -> None:
        """Keep the connection open until the test is over."""
        self._stopping.wait(_BOUND_S)


@contextlib.contextmanager
def talking(script: Callable[[Conversation], None]) -> Iterator[str]:
    """Run `script` for each connection once its request's head is there; yields the server's URL."""
    stopping = threading.Event()

    def serve(wire: socket.socket) -> None:
        request = b""
        with wire, contextlib.suppress(OSError):  # the other side may go first
            while b"\r\n\r\n" not in request and (part := wire.recv(65_536)):
                request += part
            script(Conversation(wire, request, stopping))

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the test is over
            while True:
                wire, _ = listener.accept()
                wire.settimeout(_BOUND_S)
                threads.append(threading.Thread(target=serve, args=(wire,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept, args=(listener,))]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(_BOUND_S)


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port on which nobody listens, and nobody else will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def stalling_connects() -> Iterator[str]:
    """The URL of a listener whose queue is full, so that connecting to it gets no answer at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(8):  # the kernel takes one or two more than it was told
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
