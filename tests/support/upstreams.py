"""Simulators that can be switched: one that is away answers 503 to everything, one that is bad answers 500 or late."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

import simulator.app
from simulator.settings import SimulatorSettings
from simulator.transport import SimulatorProtocol
from support.server import running

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

_GATE_S = 30
_ERROR = b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}'


class Switched:
    """An ASGI application in front of a simulator. `status` and `delay_s` are its switches; it counts what comes."""

    def __init__(self, **settings: Any) -> None:
        self.status: int | None = None
        self.delay_s = 0.0
        self.gate: threading.Event | None = None
        """What comes while there is one waits until it is set."""
        self.asked = 0
        self.url = ""
        self._simulator = simulator.app.create_app(SimulatorSettings(tokens=2, **settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        if (gate := self.gate) is not None:
            await asyncio.to_thread(gate.wait, _GATE_S)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.status is None:
            await self._simulator(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": _ERROR})


@contextlib.contextmanager
def switched(api_key: str | None = None) -> Iterator[Switched]:
    upstream = Switched(api_key=SecretStr(api_key) if api_key else None)
    with running(upstream, http=SimulatorProtocol, lifespan="off") as url:
        upstream.url = url
        yield upstream
