"""What `up` starts: every part with its command and the place that says it is ready, and the environment of all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devstack import models, ports
from devstack.credentials import DEVELOPMENT_KEY
from devstack.stores import STORES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devstack.local_dir import LocalDir
    from devstack.upstream import Upstream

SERVICES = ("gateway", "inference", "cache", "jobs", "worker", "simulator")
MEASURED = ("gateway", "inference", "cache", "jobs", "worker")
MODULES = {"worker": "jobs.worker"}
"""Where the process is not the package of its name."""
DRAIN_TIMEOUT_S = 2
"""What open requests get when the stack stops; its end is promised within 5 s."""
FLUSH_TIMEOUT_S = 0.5
UPSTREAM_KEY = "INFERENCE_UPSTREAM_API_KEY"
_OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True)
class Part:
    name: str
    command: tuple[str, ...]
    ready_url: str | None = None
    """Answers 200 once it is of use. Stores have none: the gateway's and the cache's readiness speak for them."""


@dataclass(frozen=True)
class Plan:
    parts: tuple[Part, ...]
    environment: Mapping[str, str]
    """For every part, beside what it inherits."""


def url(port: int | str) -> str:
    return f"http://{ports.HOST}:{port}"


def make(
    environ: Mapping[str, str],
    local: LocalDir,
    assigned: Mapping[str, int],
    secrets: Mapping[str, str],
    upstream: Upstream,
) -> Plan:
    """Lay out the stack. What `environ` sets already wins over every value of ours, an empty value counts as unset."""
    given = {name: value for name, value in environ.items() if value}
    parts = [
        Part(store.part, tuple(store.command(assigned[store.part], local.store(store.name))))
        for store in STORES
        if store.variable not in given
    ]
    if not any(name in given for name in _OTLP_VARIABLES):
        port = assigned["traces"]
        parts.append(Part("traces", (*_python("devstack"), "traces", "--port", str(port)), f"{url(port)}/health"))
    if upstream.is_simulator:
        parts.append(Part("simulator", _python("simulator"), f"{url(assigned['simulator'])}/health"))
    parts += [
        Part(name, _python(MODULES.get(name, name)), f"{url(assigned[name])}/readyz")
        for name in ("inference", "gateway", "cache", "jobs", "worker")
    ]
    ours = _environment(assigned, {**secrets, **_common(secrets, given)}, upstream)
    if upstream.is_simulator:
        ours[models.VARIABLE] = str(local.models)
    state_url = given.get("GATEWAY_STATE_URL", ours["GATEWAY_STATE_URL"])
    ours |= {"JOBS_STATE_URL": state_url, "WORKER_STATE_URL": state_url}
    if "traces" in {part.name for part in parts}:
        ours |= {_OTLP_VARIABLES[0]: url(assigned["traces"]), "SPILLWAY_TRACES_URL": url(assigned["traces"])}
        ours["OTEL_METRICS_EXPORTER"] = "none"  # that receiver takes traces alone
    # Not what a sourced dev.env says about the stack it was written for.
    kept = {name: given[name] for name in ours if name in given and not name.startswith("SPILLWAY_")}
    return Plan(tuple(parts), ours | kept)


def client_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a client of the stack exports: the names that the official SDK reads, and ours."""
    gateway = url(int(environment["GATEWAY_PORT"]))
    known = {
        "OPENAI_BASE_URL": f"{gateway}/v1",
        "OPENAI_API_KEY": environment[DEVELOPMENT_KEY],
        "SPILLWAY_URL": gateway,
        "SPILLWAY_ADMIN_KEY": environment["GATEWAY_ADMIN_KEY"],
    }
    names = ("SPILLWAY_INFERENCE_URL", "SPILLWAY_CACHE_URL", "SPILLWAY_SIMULATOR_URL", "SPILLWAY_TRACES_URL")
    return known | {name: environment[name] for name in names if name in environment}


def _python(module: str) -> tuple[str, ...]:
    return sys.executable, "-m", module


def _common(secrets: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that two processes share: whoever replaces the one on the right replaces the other too."""
    shared = {
        "CACHE_HOP_SECRET": "GATEWAY_CACHE_HOP_SECRET",
        "INFERENCE_HOP_SECRET": "GATEWAY_INFERENCE_HOP_SECRET",
        "JOBS_HOP_SECRET": "GATEWAY_JOBS_HOP_SECRET",
        "WORKER_GATEWAY_HOP_SECRET": "GATEWAY_HOP_SECRET",
        "WORKER_SEAL_SECRET": "JOBS_SEAL_SECRET",
    }
    return {ours: given.get(theirs, secrets[theirs]) for ours, theirs in shared.items()}


def _environment(assigned: Mapping[str, int], secrets: Mapping[str, str], upstream: Upstream) -> dict[str, str]:
    inference, cache = url(assigned["inference"]), url(assigned["cache"])
    environment = {
        **secrets,
        **{f"{name.upper()}_PORT": str(assigned[name]) for name in SERVICES},
        **{store.variable: store.url(assigned[store.part]) for store in STORES},
        "GATEWAY_CONNECTIONS_PER_ADDRESS": "0",  # everybody comes from one address here
        "GATEWAY_INFERENCE_URL": inference,
        "GATEWAY_CACHE_URL": cache,
        "GATEWAY_JOBS_URL": url(assigned["jobs"]),
        "WORKER_GATEWAY_URL": url(assigned["gateway"]),
        "INFERENCE_UPSTREAM_BASE_URL": upstream.base_url,
        UPSTREAM_KEY: upstream.api_key,
        "SPILLWAY_INFERENCE_URL": inference,
        "SPILLWAY_CACHE_URL": cache,
    }
    for name in map(str.upper, MEASURED):
        environment[f"{name}_METRICS_PORT"] = str(assigned[f"{name.lower()}-metrics"])
        stages_s = {"DRAIN_DELAY_S": 0, "DRAIN_TIMEOUT_S": DRAIN_TIMEOUT_S, "FLUSH_TIMEOUT_S": FLUSH_TIMEOUT_S}
        environment |= {f"{name}_{stage}": str(limit_s) for stage, limit_s in stages_s.items()}
    if upstream.default_model:
        environment["GATEWAY_DEFAULT_MODEL"] = upstream.default_model
    if upstream.is_simulator:
        environment["SPILLWAY_SIMULATOR_URL"] = url(assigned["simulator"])
    return environment
