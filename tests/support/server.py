"""A real uvicorn in a thread: streams, disconnects and resets need real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import uvicorn

from common.guard.door import Door
from common.guard.protocol import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S = 10
_STOP_S = 10


class Server(uvicorn.Server):
    """One in a thread of its own. It says when it has started, or that it never will."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self.run, args=([listener],), name="uvicorn")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._settled.set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn exits the interpreter when the application does not start; here only the thread ends.
        try:
            with contextlib.suppress(SystemExit):
                super().run(sockets)
        finally:
            self._settled.set()

    def begin(self) -> None:
        self._thread.start()
        if not self._settled.wait(_START_S) or not self.started:
            raise RuntimeError("the application did not start")

    def leave(self) -> None:
        """Begin to stop. It takes 0.2 s in which nothing is done, so whoever stops several tells all of them first."""
        self.should_exit = True

    def end(self) -> None:
        self.leave()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise RuntimeError("the server did not stop")


@contextlib.contextmanager
def running(app: Any, *, on_every_address: bool = False, **uvicorn_kwargs: Any) -> Iterator[str]:
    """Serve `app` on a free port and yield the base URL, for example `http://127.0.0.1:40001`.

    `on_every_address`: on `::`, as a service does whose host that is; IPv4 clients then come under mapped addresses.
    Takes uvicorn's own settings (`http=` a protocol class, `factory=True`, …). Lifespan has run when the URL is
    there; leaving stops the server, which grants open requests one second.
    """
    with serving(app, on_every_address=on_every_address, **uvicorn_kwargs) as server:
        yield server.url


@contextlib.contextmanager
def serving(app: Any, *, on_every_address: bool = False, **uvicorn_kwargs: Any) -> Iterator[Server]:
    """As `running`, for one that may be told to leave before it has to be gone."""
    settings = {
        "http": guarded(Door()),
        "log_config": None,
        "access_log": False,
        "ws": "none",
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 1,
    }
    with _listening(on_every_address) as listener:
        server = Server(uvicorn.Config(app, **(settings | uvicorn_kwargs)), listener)
        try:
            server.begin()
            yield server
        finally:
            server.end()


def _listening(on_every_address: bool) -> socket.socket:
    if on_every_address:
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    return socket.create_server(("127.0.0.1", 0), backlog=512)
