"""One of everything that callers and upstreams do to a running stack, so that each metric has something to say."""

from __future__ import annotations

import functools
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
from redis import Redis

from support.platform import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = """version: 1
models:
  sim-small:
    targets:
      - {{name: stable, base_url: {simulator}/v1, model: sim-small, price: {price}}}
      - {{name: trial, base_url: {simulator}/v1, model: sim-small, price: {price}}}
    canary: {{target: trial, percent: 5}}
  sim-embed:
    targets:
      - name: embed
        base_url: {simulator}/v1
        model: sim-embed
        price: {price}
        batching: {{max_items: 32, max_wait_ms: 5}}
  sim-gone:
    targets: [{{name: gone, base_url: "http://127.0.0.1:1/v1"}}]
    fallback: [sim-small]
"""
"""A canary, batching, and a model whose target is not there, so that its fallback answers."""
_PRICE = "{input_usd: 1, output_usd: 2, as_of: 2026-11-01}"
_BOUND_S = 30
_FROZEN_MS = 1_500
_MORE_THAN_FIT = 40
MOST_REQUESTS = 16
"""What the gateway of the stack has to be set to (`GATEWAY_MAX_REQUESTS`) for `crowding` to be too much for it."""


def models_yaml(simulator: str) -> str:
    return MODELS.format(simulator=simulator, price=_PRICE)


@dataclass
class Traffic:
    """Calls of one stack. What it sends is new each time, unless it means to repeat itself."""

    url: str
    key: str
    admin_key: str
    limits_url: str
    statuses: set[int] = field(default_factory=set)

    def everything(self) -> None:
        with self._client(self.key) as http, self._client(self.admin_key) as admin:
            self._answers(http)
            self._faults(http)
            self._refusals(http, admin)
            self._jobs(http)
            self._crowding(http)
            self._without_limits(admin)

    def _answers(self, http: httpx2.Client) -> None:
        repeated = _chat("once and again")
        for body in (repeated, repeated, _chat("a stream", stream=True), _chat("for itself", seed=1)):
            self._post(http, "/v1/chat/completions", body)
        self._post(http, "/generate", {"prompt": _new("simple")})
        self._post(http, "/v1/chat/completions", _chat("not kept"), {"cache-control": "no-store"})
        same = {"idempotency-key": uuid.uuid4().hex}
        twice = _chat("twice")
        for _ in range(2):
            self._post(http, "/v1/chat/completions", twice, same)
        embeddings = [{"model": "sim-embed", "input": [_new("one"), _new("two")]} for _ in range(4)]
        self._together(http, "/v1/embeddings", embeddings)
        self._together(http, "/v1/chat/completions", [_chat("together [[sim ttft_ms=200]]")] * 4)

    def _faults(self, http: httpx2.Client) -> None:
        for fault in ("status=503 times=1", "status=429", "status=500", "status=400", "how=rst", "how=garbage"):
            for stream in (False, True):
                self._post(http, "/v1/chat/completions", _chat(f"[[sim {fault}]]", stream=stream))
        self._post(http, "/v1/chat/completions", _chat("[[sim cut_after=5]]", stream=True))
        self._post(http, "/v1/chat/completions", _chat("elsewhere", model="sim-gone"))

    def _refusals(self, http: httpx2.Client, admin: httpx2.Client) -> None:
        with self._limited(admin, requests_per_minute=1, tokens_per_minute=100_000, budget_usd_per_day=1) as limited:
            for _ in range(2):
                self._post(limited, "/v1/chat/completions", _chat("limited"))
        with self._client("sw_live_nobody") as nobody:
            self._post(nobody, "/v1/chat/completions", _chat("who?"))
        self._post(http, "/v1/chat/completions", _chat("what?", model="unheard-of"))

    def _jobs(self, http: httpx2.Client) -> None:
        for prompt in ("done", "[[sim status=400]]", "[[sim status=500]]"):
            asked = {"endpoint": "/v1/chat/completions", "body": _chat(prompt)}
            job = self._post(http, "/v1/jobs", asked).json()["id"]
            eventually(functools.partial(_is_finished, http, job), within_s=_BOUND_S)
        self._cancellations(http)

    def _cancellations(self, http: httpx2.Client) -> None:
        """The second waits still, for the stack's worker runs one at a time."""
        slow = {"endpoint": "/v1/chat/completions", "body": _chat("[[sim ttft_ms=5000]]")}
        for job in [self._post(http, "/v1/jobs", slow).json()["id"] for _ in range(2)][::-1]:
            http.delete(f"/v1/jobs/{job}").raise_for_status()

    def _crowding(self, http: httpx2.Client) -> None:
        self._together(
            http, "/v1/chat/completions", [_chat("[[sim ttft_ms=500]]", seed=n) for n in range(_MORE_THAN_FIT)]
        )

    def _without_limits(self, admin: httpx2.Client) -> None:
        with self._limited(admin, requests_per_minute=1_000) as limited, Redis.from_url(self.limits_url) as store:
            self._post(limited, "/v1/chat/completions", _chat("the store answers"))
            store.client_pause(_FROZEN_MS)
            self._post(limited, "/v1/chat/completions", _chat("the store is silent"))

    def _limited(self, admin: httpx2.Client, **limits: float) -> httpx2.Client:
        made = admin.post("/admin/keys", json={"tenant": uuid.uuid4().hex, "name": "limited", "limits": limits})
        made.raise_for_status()
        return self._client(made.json()["key"])

    def _together(self, http: httpx2.Client, path: str, bodies: Sequence[dict[str, Any]]) -> None:
        with ThreadPoolExecutor(len(bodies)) as pool:
            list(pool.map(lambda body: self._post(http, path, body), bodies))

    def _post(
        self, http: httpx2.Client, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """A stream that breaks is an answer too."""
        with http.stream("POST", path, content=json.dumps(body), headers=headers) as answer:
            try:
                answer.read()
            except httpx2.TransportError:
                answer._content = b""
        self.statuses.add(answer.status_code)
        return answer

    def _client(self, key: str) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=_BOUND_S,
            trust_env=False,
            limits=httpx2.Limits(max_connections=100),
        )


def _is_finished(http: httpx2.Client, job: str) -> bool:
    return http.get(f"/v1/jobs/{job}", params={"wait": 5}).json()["finished_at"] is not None


def _new(text: str) -> str:
    return f"{text} {uuid.uuid4().hex}"


def _chat(prompt: str, model: str = "sim-small", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": _new(prompt)}], **fields}
