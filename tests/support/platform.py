"""The whole platform in one process: simulator and services on real sockets, each in its thread."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
from openai import OpenAI
from pydantic import SecretStr

import cache.app
import cache.settings
import gateway.app
import gateway.settings
import inference.app
import inference.settings
import jobs.app
import jobs.settings
import jobs.worker
import simulator.app
from common.guard.protocol import guarded
from simulator.settings import SimulatorSettings
from simulator.transport import SimulatorProtocol
from support.instruments import Instruments
from support.server import Server, running, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fastapi import FastAPI
    from opentelemetry.metrics import Meter

T = TypeVar("T")
TLS = ssl.create_default_context()  # made once: nothing here speaks TLS, and each one costs a client 30 ms
BOUND_S = 10
_PAUSE_S = 0.005
NEVER_LATE_S = 60
"""All parts share one process here, and a busy machine makes them late: only tests of overload want to be refused."""
MODEL = "sim-small"
ADMIN_KEY = "the-admin-key-of-the-tests"
JOBS_SEAL_SECRET = "the-seal-secret-of-the-jobs-of-the-tests-012345"
UPSTREAM_KEY = "sk-the-platforms-key-at-the-upstream"
SECRETS = {
    "key_pepper": "the-pepper-of-the-tests-0123456789abcdef",
    "seal_secret": "the-seal-secret-of-the-tests-0123456789abcdef",
    "cache_hop_secret": "the-cache-hop-secret-of-the-tests-0123456789abcdef",
    "inference_hop_secret": "the-inference-hop-secret-of-the-tests-0123456789",
    "jobs_hop_secret": "the-jobs-hop-secret-of-the-tests-0123456789abcdef",
    "hop_secret": "the-hop-secret-of-the-workers-of-the-tests-0123",
}


@dataclass(frozen=True)
class Platform:
    """The URLs of the parts, and a key of each of two tenants."""

    gateway: str
    inference: str
    cache: str
    jobs: str
    simulator: str
    key: str
    """Of the tenant `alice`."""
    other_key: str
    """Of the tenant `bob`."""
    gateway_settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Those of the gateway, for further replicas of it."""
    instruments: Mapping[str, Instruments] = field(default_factory=dict, repr=False)
    """Of `gateway`, `inference`, `cache`, `jobs` and `worker`."""

    def http(self, key: str | None = None, **headers: str) -> httpx2.Client:
        """A plain client of the gateway: no retries, no opinion about bodies."""
        authorization = {"authorization": f"Bearer {key or self.key}"}
        return httpx2.Client(
            base_url=self.gateway, headers=authorization | headers, timeout=BOUND_S, verify=TLS, trust_env=False
        )

    def sdk(self, key: str | None = None, max_retries: int = 0, **settings: Any) -> OpenAI:
        """OpenAI's own client of the gateway."""
        return OpenAI(
            base_url=f"{self.gateway}/v1",
            api_key=key or self.key,
            max_retries=max_retries,
            timeout=settings.pop("timeout", BOUND_S),
            http_client=httpx2.Client(verify=TLS, trust_env=False),
            **settings,
        )

    def attempts(self, request_id: str) -> list[dict[str, Any]]:
        """What reached the upstream for a request, by its own account."""
        return self._attempts(f"request_id={request_id}")

    def in_flight(self) -> int:
        """Calls that inference has under way, by its own gauge."""
        return int(self.instruments["inference"].value("spillway.target.in_flight"))

    def attempts_after(self, seq: int) -> list[dict[str, Any]]:
        """What reached the upstream after that attempt."""
        return self._attempts(f"after={seq}")

    def last_attempt(self) -> dict[str, Any] | None:
        """The newest of all that reached the upstream."""
        return next(iter(self._attempts()[-1:]), None)

    def all_attempts(self) -> list[dict[str, Any]]:
        """All that reached the upstream, as far as it remembers."""
        return self._attempts()

    def _attempts(self, query: str = "") -> list[dict[str, Any]]:
        answer = httpx2.get(f"{self.simulator}/_sim/requests?{query}", timeout=BOUND_S, verify=TLS, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["requests"]
        return found


def eventually(look: Callable[[], T | None], within_s: float = BOUND_S) -> T:
    """What `look` finds as soon as it finds something. Between looks those who are waited for have the processor."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(_PAUSE_S)
    raise TimeoutError


def chat(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}


@contextlib.contextmanager
def platform(  # noqa: PLR0913  # two stores, and what differs, by keyword
    state_url: str,
    cache_url: str,
    *,
    of_gateway: dict[str, Any] | None = None,
    of_inference: dict[str, Any] | None = None,
    of_jobs: dict[str, Any] | None = None,
    of_worker: dict[str, Any] | None = None,
    workers: int = 1,
) -> Iterator[Platform]:
    """Run the parts over these stores; the arguments named `of_` are settings of theirs that differ."""
    instruments = {name: Instruments() for name in ("gateway", "inference", "cache", "jobs", "worker")}
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:

        def run(app: Any, **uvicorn_kwargs: Any) -> str:
            servers.append(stack.enter_context(serving(app, **uvicorn_kwargs)))
            return servers[-1].url

        simulator_url = run(
            simulator.app.create_app(SimulatorSettings(api_key=SecretStr(UPSTREAM_KEY))),
            http=SimulatorProtocol,
            lifespan="off",
        )
        inference_settings: dict[str, Any] = {
            "upstream_base_url": f"{simulator_url}/v1",
            "upstream_api_key": UPSTREAM_KEY,
            "hop_secret": SECRETS["inference_hop_secret"],
            "max_lag_s": NEVER_LATE_S,
            # Tests share this one target and script its failures: what it remembers of one must not decide the next.
            "retry_budget": 1_000_000,
            "throttle_ratio": 1_000_000,
            "min_concurrency": 1_000,
        } | (of_inference or {})
        inference_url = run(
            inference.app.create_app(
                inference.settings.Settings(**inference_settings), meter=instruments["inference"].meter
            )
        )
        cache_settings = cache.settings.Settings(
            store_url=SecretStr(cache_url), hop_secret=SecretStr(SECRETS["cache_hop_secret"])
        )
        cache_service_url = run(cache.app.create_app(cache_settings, meter=instruments["cache"].meter))
        queue = {"state_url": state_url, "seal_secret": JOBS_SEAL_SECRET, "reap_interval_s": 0.1}
        jobs_settings: dict[str, Any] = {**queue, "hop_secret": SECRETS["jobs_hop_secret"]} | (of_jobs or {})
        jobs_url = run(jobs.app.create_app(jobs.settings.Settings(**jobs_settings), meter=instruments["jobs"].meter))
        gateway_settings: dict[str, Any] = {
            **SECRETS,
            "state_url": state_url,
            "inference_url": inference_url,
            "cache_url": cache_service_url,
            "jobs_url": jobs_url,
            "admin_key": ADMIN_KEY,
            "default_model": MODEL,
            "max_lag_s": NEVER_LATE_S,
            "failed_logins_per_minute": 1_000_000,  # all that fails here comes from one address
            "connections_per_address": 0,
            "cache_timeout_s": 0.5,  # a busy machine's hit is a hit; tests of a frozen cache wait half a second
        } | (of_gateway or {})
        settings = gateway.settings.Settings(**gateway_settings)
        door = gateway.app.door_of(settings)
        gateway_url = run(
            gateway.app.create_app(settings, meter=instruments["gateway"].meter),
            http=guarded(door),
            proxy_headers=bool(door.trusted_proxies),
            forwarded_allow_ips=list(door.trusted_proxies),
        )
        for _ in range(workers):
            run(_worker(state_url, gateway_url, meter=instruments["worker"].meter, **(of_worker or {})))
        alice, bob = (make_key(gateway_url, tenant) for tenant in ("alice", "bob"))
        yield Platform(
            gateway_url,
            inference_url,
            cache_service_url,
            jobs_url,
            simulator_url,
            alice,
            bob,
            gateway_settings,
            instruments,
        )
        for server in servers:
            server.leave()


@contextlib.contextmanager
def worker(state_url: str, gateway_url: str, **settings: Any) -> Iterator[None]:
    """Run a worker of the platform's jobs."""
    with running(_worker(state_url, gateway_url, **settings)):
        yield


def _worker(state_url: str, gateway_url: str, *, meter: Meter | None = None, **settings: Any) -> FastAPI:
    known: dict[str, Any] = {
        "state_url": state_url,
        "seal_secret": JOBS_SEAL_SECRET,
        "reap_interval_s": 0.1,
        "gateway_url": gateway_url,
        "gateway_hop_secret": SECRETS["hop_secret"],
        "retry_base_s": 0.01,
    }
    return jobs.worker.create_app(jobs.settings.WorkerSettings(**(known | settings)), meter=meter)


def make_key(gateway_url: str, tenant: str) -> str:
    return str(new_key(gateway_url, tenant=tenant)["key"])


def new_key(gateway_url: str, *, tenant: str, **fields: Any) -> dict[str, Any]:
    """A new key with its record; `fields` as `POST /admin/keys` takes them."""
    asked = {"tenant": tenant, "name": "a test's"} | fields
    with httpx2.Client(
        headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=BOUND_S, verify=TLS, trust_env=False
    ) as http:

        def made() -> dict[str, Any] | None:
            answer = http.post(f"{gateway_url}/admin/keys", json=asked)
            if answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE:  # a busy machine's store was late
                return None
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        return eventually(made)
