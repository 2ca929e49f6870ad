"""The client's side of ASGI, for code that is called with `receive` and `send` and no server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Message, Scope


class Line:
    """A connection whose request has been read: it stays silent until the client hangs up."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    def hang_up(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(dict(message))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def ended_well(self) -> bool:
        """The last body message has been sent, so that the server ends the body as HTTP wants it."""
        return any(
            message["type"] == "http.response.body" and not message.get("more_body", False) for message in self.sent
        )


def http_scope(path: str = "/", method: str = "GET", headers: dict[str, str] | None = None) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 40_000),
        "server": ("127.0.0.1", 80),
    }
