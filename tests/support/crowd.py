"""Many callers at once, and what the upstream saw of them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from common.http_client import create_client
from simulator.attempts import prompt_hash
from support.platform import BOUND_S, chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.platform import Platform


@dataclass
class Seen:
    """What one caller got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    """The body ended as HTTP wants it."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """A first byte of the body is there."""

    @property
    def cache(self) -> str:
        return self.headers.get("x-cache", "")


class Crowd:
    """Callers of several gateways over one client."""

    def __init__(self, client: httpx2.AsyncClient, key: str) -> None:
        self._client = client
        self._key = key

    async def ask(
        self, url: str, body: dict[str, Any], seen: Seen | None = None, *, headers: dict[str, str] | None = None
    ) -> Seen:
        """One request; what came before a fault is in `seen`."""
        seen = seen or Seen()
        sent = {"authorization": f"Bearer {self._key}"} | (headers or {})
        try:
            async with self._client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=sent) as answer:
                seen.status, seen.headers = answer.status_code, dict(answer.headers)
                async for chunk in answer.aiter_raw():
                    seen.body += chunk
                    seen.began.set()
            seen.is_whole = True
        except httpx2.HTTPError:
            pass
        finally:
            seen.began.set()
        return seen


@contextlib.asynccontextmanager
async def crowd(key: str) -> AsyncIterator[Crowd]:
    async with create_client(timeout=httpx2.Timeout(BOUND_S * 6)) as client:
        yield Crowd(client, key)


def upstream_calls(stack: Platform, prompt: str) -> list[dict[str, Any]]:
    """The attempts with that very prompt, by the upstream's own account."""
    wanted = prompt_hash(chat(prompt))
    return [attempt for attempt in stack.all_attempts() if attempt["prompt"] == wanted]
