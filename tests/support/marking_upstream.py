"""An upstream that answers with the caller's `user` field: whoever is answered with another's was given another's.

The field is neutral (it is in no fingerprint) and reaches the upstream as it was sent, so identical requests of two
tenants can be told apart by their answers alone.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PIECES = 5


class MarkingUpstream:
    """Chat, streamed in a few pieces and not."""

    def __init__(self, *, pause_s: float = 0.004) -> None:
        self._pause_s = pause_s
        self._numbers = itertools.count(1)
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        self.calls += 1
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        asked = orjson.loads(body)
        head = {"id": f"chatcmpl-{next(self._numbers)}", "created": 1, "model": asked["model"]}
        mark = f"<{asked['user']}>"
        await asyncio.sleep(self._pause_s)
        if asked.get("stream"):
            await self._stream(send, head, mark)
        else:
            message = {"role": "assistant", "content": mark * PIECES}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = orjson.dumps(head | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})
            await _start(send, b"application/json")
            await send({"type": "http.response.body", "body": answer})

    async def _stream(self, send: Send, head: dict[str, object], mark: str) -> None:
        await _start(send, b"text/event-stream")
        for number in range(PIECES):
            finish = "stop" if number == PIECES - 1 else None
            choice = {"index": 0, "delta": {"role": "assistant", "content": mark}, "finish_reason": finish}
            await _send_event(send, head | {"object": "chat.completion.chunk", "choices": [choice], "usage": None})
            await asyncio.sleep(self._pause_s)
        await _send_event(send, head | {"object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


_USAGE = {"prompt_tokens": 3, "completion_tokens": PIECES, "total_tokens": 3 + PIECES}


async def _start(send: Send, content_type: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})


async def _send_event(send: Send, chunk: dict[str, object]) -> None:
    event = b"data: " + orjson.dumps(chunk) + b"\n\n"
    await send({"type": "http.response.body", "body": event, "more_body": True})
