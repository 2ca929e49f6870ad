"""The worker itself, over a transport that ends the process when a request holds the word of a poison job."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

import httpx2

from common import server
from common.http_client import Transport
from jobs.settings import WorkerSettings
from jobs.worker import create_app

POISON = "a-poison-job"


class _Deadly(httpx2.AsyncBaseTransport):
    """Ends the process, as a crash would, when a poison job is replayed."""

    def __init__(self) -> None:
        self._transport = Transport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if POISON.encode() in request.content:
            os.kill(os.getpid(), signal.SIGKILL)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


def _client(*, base_url: str, **_: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=base_url, transport=_Deadly(), trust_env=False)


if __name__ == "__main__":
    server.run("worker", WorkerSettings, functools.partial(create_app, create_client=_client))
