"""The platform as it is deployed: every tier twice, as processes, each behind an address that knows who is ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.cluster_service import ClusterService, until
from support.platform import ADMIN_KEY, JOBS_SEAL_SECRET, MODEL, SECRETS, UPSTREAM_KEY
from support.ports import free_port
from support.valkey import valkey

MODULES = {"gateway": "gateway", "inference": "inference", "cache": "cache", "jobs": "jobs", "worker": "jobs.worker"}
TIERS = tuple(MODULES)
_START_S = 150
_NEVER_LATE_S = 60
_OURS = ("GATEWAY_", "INFERENCE_", "CACHE_", "JOBS_", "WORKER_", "SIMULATOR_", "OTEL_", "SPILLWAY_")


@dataclass(eq=False)
class Member:
    tier: str
    url: str
    process: subprocess.Popen[bytes]


class Fleet:
    """`drain_delay_s` and `drain_timeout_s` are those of the tiers that serve; workers keep theirs.

    What is started runs the code below `source`, another checkout of this repository, as long as there is one.
    """

    def __init__(self, home: Path, *, drain_delay_s: float, drain_timeout_s: float, replicas: int = 2) -> None:
        self._home = home
        self._stop_s = drain_delay_s + drain_timeout_s + 20
        self._stages = {"drain_delay_s": drain_delay_s, "drain_timeout_s": drain_timeout_s}
        self._replicas = replicas
        self.source: Path | None = None
        self.services = {tier: ClusterService() for tier in TIERS}
        self.members: dict[str, list[Member]] = {tier: [] for tier in TIERS}
        self.stores: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        """Of the stores and the simulator."""

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def restart(self, member: Member) -> None:
        """As a rolling update does with one replica: SIGTERM, gone, another one started, ready and known to be."""
        member.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(member.process.wait, self._stop_s)
        assert member.process.returncode in (0, -signal.SIGTERM), self.log_of(member.tier)
        self.services[member.tier].remove(member.url)
        self.members[member.tier].remove(member)
        started = self._launch(member.tier)
        await self._is_known(started)

    def waited_s(self) -> dict[int, float]:
        """By process that serves: how long it has been ready to run and had no processor. Empty but on Linux.

        Source: the kernel's documentation, scheduler/sched-stats, the second field.
        """
        ready = [
            member
            for tier, members in self.members.items()
            for member in members
            if member.url in self.services[tier].ready
        ]
        pids = [member.process.pid for member in ready] + [*self.pids.values()]
        files = {pid: Path(f"/proc/{pid}/schedstat") for pid in pids}
        waited = {}
        for pid, file in files.items():
            with contextlib.suppress(OSError):  # it ended just now
                waited[pid] = int(file.read_text().split()[1]) / 1e9
        return waited

    def log_of(self, tier: str) -> str:
        return "".join(log.read_text()[-2_000:] for log in sorted(self._home.glob(f"{tier}-*.log")))

    async def _start(self) -> None:
        for name in ("state", "limits", "cache"):
            directory = self._home / name
            directory.mkdir()
            store = self._stack.enter_context(valkey(name, directory))
            self.stores[name] = store.url
            self.pids[f"valkey-{name}"] = store._pid
        self._simulator_port = free_port()
        environment = {"SIMULATOR_PORT": str(self._simulator_port), "SIMULATOR_API_KEY": UPSTREAM_KEY}
        self.pids["simulator"] = self._run("simulator", "simulator", environment).pid
        for service in self.services.values():
            await self._stack.enter_async_context(service)
        for member in [self._launch(tier) for tier in TIERS for _ in range(self._replicas)]:
            await self._is_known(member)

    async def _is_known(self, member: Member) -> None:
        service = self.services[member.tier]
        try:
            await until(lambda: member.url in service.ready, _START_S)
        except TimeoutError:
            raise AssertionError(f"{member.tier} is not ready: {self.log_of(member.tier)}") from None

    def _launch(self, tier: str) -> Member:
        port = free_port()
        prefix = f"{tier.upper()}_"
        settings = self._settings(tier) | {"port": port}
        environment = {f"{prefix}{name.upper()}": str(value) for name, value in settings.items()}
        member = Member(tier, f"http://127.0.0.1:{port}", self._run(tier, MODULES[tier], environment))
        self.members[tier].append(member)
        self.services[tier].add(member.url)
        return member

    def _run(self, name: str, module: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        if self.source is not None:
            inherited["PYTHONPATH"] = os.pathsep.join(map(str, sorted(self.source.glob("*/*/src"))))
        number = len(list(self._home.glob(f"{name}-*.log")))
        log = self._stack.enter_context((self._home / f"{name}-{number}.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603  # our own
            [sys.executable, "-m", module], env={**inherited, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
        self._stack.callback(_end, process)
        return process

    def _settings(self, tier: str) -> dict[str, Any]:
        url = {name: service.url for name, service in self.services.items()}
        queue = {"state_url": self.stores["state"], "seal_secret": JOBS_SEAL_SECRET}
        match tier:
            case "gateway":
                return self._stages | {
                    **SECRETS,
                    "state_url": self.stores["state"],
                    "limits_url": self.stores["limits"],
                    "expected_replicas": self._replicas,
                    "inference_url": url["inference"],
                    "cache_url": url["cache"],
                    "jobs_url": url["jobs"],
                    "admin_key": ADMIN_KEY,
                    "default_model": MODEL,
                    "connections_per_address": 0,
                    # The machine is shared: only a lost request is to be seen, not one that was refused for its load.
                    "max_lag_s": _NEVER_LATE_S,
                }
            case "inference":
                return self._stages | {
                    "upstream_base_url": f"http://127.0.0.1:{self._simulator_port}/v1",
                    "upstream_api_key": UPSTREAM_KEY,
                    "hop_secret": SECRETS["inference_hop_secret"],
                    "max_lag_s": _NEVER_LATE_S,
                    "min_concurrency": 1_000,
                }
            case "cache":
                return self._stages | {"store_url": self.stores["cache"], "hop_secret": SECRETS["cache_hop_secret"]}
            case "jobs":
                return self._stages | queue | {"hop_secret": SECRETS["jobs_hop_secret"]}
            case _:
                return queue | {"gateway_url": url["gateway"], "gateway_hop_secret": SECRETS["hop_secret"]}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
