"""`python -m simulator`: serve until SIGTERM. What is wrong with the settings is one line, and exit status 2."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import sys

import uvicorn

from simulator.app import create_app
from simulator.settings import PREFIX, BadSettingsError, SimulatorSettings, load
from simulator.transport import SimulatorProtocol

_BACKLOG = 2_048
_KEEP_ALIVE_S = 75  # longer than any client keeps an idle connection
_STOP_S = 1


def main() -> int:
    try:
        settings = load()
        listener = _listen(settings)
    except BadSettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    config = uvicorn.Config(
        create_app(settings),
        http=SimulatorProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # streams cut off by SIGTERM are no news; the app logs its own defects
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
    )
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"simulator listening on http://{f'[{host}]' if ':' in host else host}:{port}\n")
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # what is here now stays; collections need not look at it again
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(settings: SimulatorSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        is_about_the_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
        if is_about_the_port:
            raise BadSettingsError(f"{PREFIX}PORT: {settings.port}: {os.strerror(error.errno or 0)}") from None
        raise BadSettingsError(f"{PREFIX}HOST: {settings.host}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
