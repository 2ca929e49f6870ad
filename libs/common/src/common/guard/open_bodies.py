"""Bodies for clients of HTTP/1.0, who know no chunks: one of unknown length ends with the connection.

Source: RFC 9112, 6.1 (no Transfer-Encoding to HTTP/1.0) and 6.3, 8 (a body that is delimited by the close).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def until_closed(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """`app` for the one request of `cycle`, whose answer uvicorn would send in chunks unless it says its length."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def send_unchunked(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start":
                is_open = all(name.lower() != b"content-length" for name, _ in message["headers"])
                if is_open:
                    cycle.chunked_encoding = False
                    cycle.expected_content_length = sys.maxsize
            elif is_open and not message.get("more_body", False):
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return answering
