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


class _Server(uvicorn.Server):
    """Says when it has started, or that it never will."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn exits the interpreter when the application does not start; here only the thread ends.
        try:
            with contextlib.suppress(SystemExit):
                super().run(sockets)
        finally:
            self.settled.set()


@contextlib.contextmanager
def running(app: Any, *, on_every_address: bool = False, **uvicorn_kwargs: Any) -> Iterator[str]:
    """Serve `app` on a free port and yield the base URL, for example `http://127.0.0.1:40001`.

    `on_every_address`: on `::`, as a service does whose host that is; IPv4 clients then come under mapped addresses.
    Takes uvicorn's own settings (`http=` a protocol class, `factory=True`, …). Lifespan has run when the URL is
    there; leaving stops the server, which grants open requests one second.
    """
    settings = {
        "http": guarded(Door()),
        "log_config": None,
        "access_log": False,
        "ws": "none",
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 1,
    }
    server = _Server(uvicorn.Config(app, **(settings | uvicorn_kwargs)))
    with _listening(on_every_address) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            if not server.settled.wait(_START_S) or not server.started:
                raise RuntimeError("the application did not start")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_STOP_S)
            if thread.is_alive():
                raise RuntimeError("the server did not stop")


def _listening(on_every_address: bool) -> socket.socket:
    if on_every_address:
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    return socket.create_server(("127.0.0.1", 0), backlog=512)
