"""Runs a service: `python -m gateway` and its siblings end here. Stopping is part of the promise.

After SIGTERM: not ready at once, the listener open for `drain_delay_s`, open requests for `drain_timeout_s`, then
telemetry for `flush_timeout_s`. uvicorn alone would close the listener after 0.1 s, while endpoints still send here.
From the signal on each answer closes its connection, and one that is open stays as long as a client may keep it: who
has a pool of them loses no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import uvicorn

from common.guard.door import Door
from common.guard.protocol import guarded
from common.settings import BadSettingsError, SettingsT, load
from common.telemetry import logs, metrics, traces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import FrameType

    from fastapi import FastAPI
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics import MeterProvider

    from common.health import Health
    from common.settings import ServiceSettings

SettingsT_contra = TypeVar("SettingsT_contra", contravariant=True)


class CreateApp(Protocol[SettingsT_contra]):
    def __call__(self, settings: SettingsT_contra, /, *, meter: Meter) -> FastAPI: ...


KEEPALIVE_S = 75
"""Longer than any client of ours keeps an idle connection (8 s), so that the client lets go first."""
PARTING_S = 9
"""The same while the service is leaving (docs/adr/0034): less than the drain delay, more than a client's 8 s."""
BAD_SETTINGS_EXIT = 2
ACCEPTS_PER_TURN = 64
"""libuv accepts one connection of a listening socket in each turn of the loop. In an overload, when turns are long,
newcomers would wait where nobody can refuse them (measured: 5.5 s at p99 for the client, 1 s in the gateway), so the
socket is listened to this often.
"""
_DEAD_PEERS = [
    (getattr(socket, name), value)
    for name, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}.items()
    if hasattr(socket, name)
]
"""A client that vanished without a word is noticed after 45 s; one that takes no byte of an answer, after 30 s."""


def run(
    name: str,
    settings_type: type[SettingsT],
    create_app: CreateApp[SettingsT],
    door_of: Callable[[SettingsT], Door] = lambda _: Door(),
) -> NoReturn:
    """Serve until a signal. A bad setting or a taken port is one line on standard error and exit status 2."""
    try:
        settings = load(settings_type)
        logs.configure(name, settings.log_level)
        provider = _metered(name, settings)
        app, door = create_app(settings, meter=metrics.meter(provider, name)), door_of(settings)
    except BadSettingsError as error:
        _refuse(name, str(error))
    listener = _listen(name, settings)
    config = uvicorn.Config(
        app,
        http=guarded(replace(door, linger_s=min(PARTING_S, int(settings.drain_delay_s))), app.state.refusals),
        loop="uvloop",
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        proxy_headers=bool(door.trusted_proxies),
        forwarded_allow_ips=list(door.trusted_proxies),
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
    )
    # uvicorn raises the signal anew once it is done. By default that would kill the process, its last lines unwritten.
    signal.signal(signal.SIGTERM, _leave)
    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process: no collection need look at it again
    _Server(config, provider, settings.flush_share_s).run(
        sockets=[listener, *(listener.dup() for _ in range(ACCEPTS_PER_TURN - 1))]
    )
    sys.exit(0)


class _Server(uvicorn.Server):
    """Lets the last metrics leave when the application has ended. uvicorn ends the process by its signal after that."""

    def __init__(self, config: uvicorn.Config, provider: MeterProvider | None, flush_share_s: float) -> None:
        super().__init__(config)
        self._provider = provider
        self._flush_share_s = flush_share_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        traces.shut_down(self._provider, self._flush_share_s)


def _metered(name: str, settings: ServiceSettings) -> MeterProvider | None:
    if not settings.metrics_port:
        return metrics.meter_provider(name)
    from common.telemetry.metrics_page import MetricsPage  # noqa: PLC0415  # costs memory

    try:
        page = MetricsPage(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        raise BadSettingsError(f"{name.upper()}_METRICS_PORT: cannot listen on {where}: {error.strerror}") from None
    provider = metrics.meter_provider(name, page.reader)
    page.start()
    return provider


def _listen(name: str, settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is every address, IPv4 included
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in _DEAD_PEERS:  # what it accepts inherits them
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        _refuse(name, f"{name.upper()}_PORT: cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    return listener


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


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
