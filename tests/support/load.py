"""Open-loop load on the inference service: requests leave when they are due, whether or not others came back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2

from common import wire
from common.identity import HopIdentity, HopSigner
from support.platform import BOUND_S, SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNER = HopSigner(SECRETS["inference_hop_secret"], "inference")


@dataclass
class Outcomes:
    statuses: list[int] = field(default_factory=list)
    """0: no whole answer came."""
    targets: list[str | None] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    """As the answers say it."""
    codes: Counter[str] = field(default_factory=Counter)
    """Of the errors."""

    @property
    def failed(self) -> int:
        return sum(status != 200 for status in self.statuses)

    @property
    def answered_share(self) -> float:
        return 1 - self.failed / len(self.statuses)


class Load:
    """Clients of inference, each request by one of many tenants in turn; a third of the requests are streams."""

    def __init__(self, inference_url: str, *, model: str = "sim-small", tenants: int = 100) -> None:
        self._url = inference_url
        self._model = model
        self._tenants = tenants
        self._sent = 0

    async def __aenter__(self) -> Self:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx2.AsyncClient(base_url=self._url, timeout=BOUND_S, limits=limits, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def at(self, rate: float, *, seconds: float = 0, until: Callable[[], bool] | None = None) -> Outcomes:
        """Send `rate` requests a second for so long, or until something has happened; return when all are over."""
        outcomes = Outcomes()
        begun = time.monotonic()
        calls = []
        while not until() if until is not None else time.monotonic() - begun < seconds:
            calls.append(asyncio.create_task(self.one(outcomes)))
            due = begun + len(calls) / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*calls)
        return outcomes

    async def one(self, outcomes: Outcomes) -> None:
        self._sent += 1
        number = self._sent
        identity = HopIdentity(f"tenant-{number % self._tenants}", "k")
        is_stream = number % 3 == 0
        body: dict[str, Any] = {"model": self._model, "messages": [{"role": "user", "content": f"No. {number}"}]}
        headers = {"authorization": SIGNER.authorization(identity), wire.REQUEST_ID: f"req_{number}"}
        status, target, attempts = 0, None, 0
        try:
            answer = await self._client.post("/v1/chat/completions", json=body | {"stream": is_stream}, headers=headers)
            is_whole = not is_stream or answer.status_code != 200 or b"data: [DONE]" in answer.content
            status = answer.status_code if is_whole else 0
            target = answer.headers.get(wire.TARGET)
            if status >= 400:  # an error by its status
                outcomes.codes[str(answer.json()["error"]["code"])] += 1
            attempts = int(answer.headers.get(wire.ATTEMPTS, "0"))
        except httpx2.HTTPError:
            pass
        outcomes.statuses.append(status)
        outcomes.targets.append(target)
        outcomes.attempts.append(attempts)
