"""What a Kubernetes Service is to a tier: one address, behind it whoever is ready. It is the edge's view as well."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import httpx2

from common.background import end
from common.http_client import create_client

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_S = 0.25
SPREAD_S = 0.75
"""How long connections still go to a member that is not ready any more: news of endpoints take their time."""


class ClusterService:
    """Below HTTP, as kube-proxy is: a new connection goes to the ready members in turn; one that is open stays where it
    is, whatever becomes of its member's readiness.
    """

    def __init__(self) -> None:
        self.url = ""
        self._is_ready: dict[str, bool] = {}
        """By member."""
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        """Those who said that they are not ready, until the news have spread."""
        self._turns = itertools.count()
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # A connection for each question, as a kubelet's: none is kept to a server that leaves.
        self._client = create_client(timeout=httpx2.Timeout(2))
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._probing = asyncio.create_task(self._probe_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._probing)
        self._server.close()
        await end(*self._relays)
        await self._client.aclose()

    def add(self, member: str) -> None:
        self._is_ready[member] = False

    def remove(self, member: str) -> None:
        del self._is_ready[member]

    @property
    def ready(self) -> list[str]:
        """Those to whom new connections go."""
        return [member for member, is_ready in self._is_ready.items() if is_ready]

    def pick(self) -> str:
        """The ready member whose turn it is. Raises `httpx2.ConnectError` when nobody is."""
        ready = self.ready
        if not ready:
            raise httpx2.ConnectError("nobody is ready")
        return ready[next(self._turns) % len(ready)]

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.gather(*(self._probe(member) for member in self._is_ready))
            await asyncio.sleep(PROBE_S)

    async def _probe(self, member: str) -> None:
        """No answer in time says nothing: the machine of a test may be busy."""
        with contextlib.suppress(httpx2.TimeoutException):
            try:
                answer = await self._client.get(f"{member}/readyz", headers={"connection": "close"})
                is_ready = answer.status_code == httpx2.codes.OK
            except httpx2.NetworkError:
                is_ready = False
            self._note(member, is_ready=is_ready)

    def _note(self, member: str, *, is_ready: bool) -> None:
        if member not in self._is_ready:
            return
        if is_ready:
            self._is_ready[member] = True
            if member in self._leaving:
                self._leaving.pop(member).cancel()
        elif member not in self._leaving:
            self._leaving[member] = asyncio.get_running_loop().call_later(SPREAD_S, self._leave, member)

    def _leave(self, member: str) -> None:
        if member in self._is_ready:
            self._is_ready[member] = False

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        back: asyncio.StreamWriter | None = None
        try:
            url = urlsplit(self.pick())
            answers, back = await asyncio.open_connection(url.hostname, url.port)
            there, here = (asyncio.create_task(_pump(*way)) for way in ((reader, back), (answers, writer)))
            await asyncio.wait({there, here}, return_when=asyncio.FIRST_COMPLETED)
            await end(there, here)
        except (OSError, httpx2.ConnectError):  # nobody is ready, or the one whose turn it is has gone
            pass
        finally:
            self._relays.discard(task)
            for side in (writer, back):
                if side is not None:
                    side.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


async def until(is_so: Callable[[], bool], within_s: float) -> None:
    """Wait for another process, which tells nobody. Raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.1)
