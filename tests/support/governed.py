"""A platform whose gateway has a limits store, and whose models have prices; and keys with limits on it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

import simulator.app
from simulator.settings import SimulatorSettings
from simulator.transport import SimulatorProtocol
from support.limits import unique
from support.platform import ADMIN_KEY, MODEL, UPSTREAM_KEY, Platform, new_key, platform
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx2

FREE = "sim-unpriced"
"""Nobody knows what it costs."""
INPUT_USD, OUTPUT_USD = 1.0, 2.0
"""Per million tokens: so many micro-dollars a token."""
_MODELS = """version: 1
models:
  {priced}:
    targets:
      - name: priced
        base_url: {url}/v1
        api_key: SIM_KEY
        price: {{input_usd: {input_usd}, output_usd: {output_usd}, as_of: 2026-11-01}}
  {free}:
    targets:
      - {{name: free, base_url: {url}/v1, api_key: SIM_KEY, model: {priced}}}
"""


@contextlib.contextmanager
def governed(  # noqa: PLR0913  # three stores, a folder, and what differs, by keyword
    state_url: str,
    cache_url: str,
    limits_url: str,
    files: Path,
    *,
    of_jobs: dict[str, Any] | None = None,
    of_worker: dict[str, Any] | None = None,
    **of_gateway: Any,
) -> Iterator[Platform]:
    simulator_app = simulator.app.create_app(SimulatorSettings(api_key=SecretStr(UPSTREAM_KEY)))
    with running(simulator_app, http=SimulatorProtocol, lifespan="off") as url:
        (files / "SIM_KEY").write_text(UPSTREAM_KEY)
        models = files / "models.yaml"
        models.write_text(_MODELS.format(priced=MODEL, free=FREE, url=url, input_usd=INPUT_USD, output_usd=OUTPUT_USD))
        inference = {"models_file": models, "secrets_dir": files, "upstream_base_url": None, "upstream_api_key": None}
        gateway = {"limits_url": limits_url} | of_gateway
        with platform(
            state_url, cache_url, of_gateway=gateway, of_inference=inference, of_jobs=of_jobs, of_worker=of_worker
        ) as stack:
            yield replace(stack, simulator=url)


@dataclass(frozen=True)
class LimitedKey:
    """A key of its own tenant."""

    stack: Platform
    tenant: str
    id: str
    text: str

    def post(self, body: Mapping[str, Any], **headers: str) -> httpx2.Response:
        with self.stack.http(self.text, **headers) as client:
            return client.post("/v1/chat/completions", json=dict(body))

    def get(self, path: str) -> httpx2.Response:
        with self.stack.http(self.text) as client:
            return client.get(path)

    def usage(self) -> list[dict[str, Any]]:
        """What its tenant used today, as the administrator is told."""
        with self.stack.http(ADMIN_KEY) as client:
            answer = client.get("/admin/usage", params={"tenant": self.tenant})
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows


def limited_key(stack: Platform, *, tenant: str | None = None, **fields: Any) -> LimitedKey:
    """Make a key; `fields` as `POST /admin/keys` takes them."""
    tenant = tenant or unique("tenant")
    made = new_key(stack.gateway, tenant=tenant, **fields)
    return LimitedKey(stack, tenant, made["id"], made["key"])


def decided(answer: httpx2.Response) -> dict[str, str]:
    """The pairs of `x-spillway-decision`."""
    pairs = answer.headers["x-spillway-decision"].split("; ")
    return dict(pair.split("=", 1) for pair in pairs)
