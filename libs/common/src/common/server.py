"""Runs a service: `python -m gateway` and its siblings end here. Stopping is part of the promise.

After SIGTERM: not ready at once, the listener open for `drain_delay_s`, open requests for `drain_timeout_s`, then
telemetry for `flush_timeout_s`. uvicorn alone would close the listener after 0.1 s, while endpoints still send here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from common import logs
from common.settings import BadSettingsError, SettingsT, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import FrameType

    from fastapi import FastAPI

    from common.health import Health
    from common.settings import ServiceSettings

KEEPALIVE_S = 75
"""Longer than any client of ours keeps an idle connection (20 s), so that the client lets go first."""
BAD_SETTINGS_EXIT = 2


def run(name: str, settings_type: type[SettingsT], create_app: Callable[[SettingsT], FastAPI]) -> NoReturn:
    """Serve until a signal. A bad setting or a taken port is one line on standard error and exit status 2."""
    try:
        settings = load(settings_type)
        app = create_app(settings)
    except BadSettingsError as error:
        _refuse(name, str(error))
    logs.configure(name, settings.log_level)
    listener = _listen(name, settings)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process: no collection need look at it again
    uvicorn.Server(config).run(sockets=[listener])
    sys.exit(0)


def _listen(name: str, settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        _refuse(name, f"{name.upper()}_PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    return listener


def _refuse(name: str, why: str) -> NoReturn:
    sys.stderr.write(f"{name}: {why}\n")
    sys.exit(BAD_SETTINGS_EXIT)


@contextlib.asynccontextmanager
async def draining(health: Health, delay_s: float) -> AsyncIterator[None]:
    """Within a lifespan: turn readiness off at SIGTERM and pass the signal on to uvicorn `delay_s` later."""
    server_handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(server_handler):
        yield  # under a test's own server there is no signal to wait for
        return
    loop = asyncio.get_running_loop()

    def drain(signum: int, frame: FrameType | None) -> None:
        def pass_on() -> None:
            server_handler(signum, frame)

        if health.draining:
            pass_on()  # asked twice: now
        else:
            health.draining = True
            loop.call_soon_threadsafe(loop.call_later, delay_s, pass_on)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, server_handler)
