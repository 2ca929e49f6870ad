"""The stack as real processes on free ports, and what each of them costs: CPU time and memory, from /proc."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.stores import connect, is_reachable
from devstack.stores import STORES
from gateway.access.key_store import put_key
from gateway.access.keys import Limits, generate_key
from gateway.access.records import record_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

SERVICES = ("gateway", "cache", "inference")
MODEL = "sim-small"
EMBED, EMBED_ALONE = "sim-embed", "sim-large"
"""Two models that embed, of which the second joins no requests."""
SCARCE = Limits(requests_per_minute=1)
AMPLE = Limits(requests_per_minute=10**7, tokens_per_minute=10**10, max_concurrency=10**6)
_START_S = 120
_STOP_S = 10
_POLL_S = 0.01
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Stack:
    gateway_port: int
    simulator_port: int
    key: str
    limited_key: str
    """Its requests, tokens and concurrency are limited, so generously that nothing is refused."""
    spent_key: str
    """It may make one request a minute."""
    start_s: float
    """From the first process started to the first answer of a model through the gateway."""
    pids: Mapping[str, int]
    """Of our processes: services and stores; not the simulator's nor the sink's."""
    relays: Mapping[str, tuple[int, int]]
    """Port and pid of each bare relay before the simulator that was asked for."""

    def behind(self, relay: str) -> Stack:
        """The same with that relay alone for our processes."""
        port, pid = self.relays[relay]
        return replace(self, gateway_port=port, pids={relay: pid})

    def cpu_ms(self) -> dict[str, float]:
        """User and system time of each process since it started. Source: proc(5), stat, fields 14 and 15."""
        return {name: _cpu_ms(pid) for name, pid in self.pids.items()}

    def system_ms(self) -> dict[str, float]:
        """The kernel's part of it."""
        return {name: _times_ms(pid)[1] for name, pid in self.pids.items()}

    def upstream_calls(self, after: int = 0) -> tuple[int, int]:
        """How many the simulator got after that one of its numbers, and the number of the last."""
        connection = http.client.HTTPConnection("127.0.0.1", self.simulator_port, timeout=_START_S)
        try:
            connection.request("GET", f"/_sim/requests?after={after}")
            attempts = json.loads(connection.getresponse().read())["requests"]
        finally:
            connection.close()
        return len(attempts), attempts[-1]["seq"] if attempts else after

    def memory_mb(self) -> dict[str, float]:
        """Proportional set size: pages shared by several processes count for each in part, so the sum is honest."""
        return {name: _pss_mb(pid) for name, pid in self.pids.items()}


def _cpu_ms(pid: int) -> float:
    return sum(_times_ms(pid))


def _times_ms(pid: int) -> tuple[float, float]:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) * 1000 / _TICKS_PER_S, int(fields[12]) * 1000 / _TICKS_PER_S


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel reports no PSS")


@dataclass(frozen=True)
class Cores:
    """Which processors are whose: a generator that runs where the platform does measures itself."""

    ours: frozenset[int]
    others: frozenset[int]
    """The load generator's, the simulator's and the sink's."""

    @classmethod
    def apart(cls) -> Cores:
        """One for the others, the rest for the platform; all for all where there is only one."""
        available = sorted(os.sched_getaffinity(0))
        return cls(frozenset(available[:-1] or available), frozenset(available[-1:]))


@contextlib.contextmanager
def running(
    tracing: str, cores: Cores | None = None, *, relays: Iterable[str] = (), **settings: str
) -> Iterator[Stack]:
    """Start everything, yield once a model answered through the gateway, stop everything.

    `tracing` is `off` or the share of requests that are traced; `settings` are further environment variables; with
    `cores` each process keeps to its own. `relays`: kinds of bare relays that are wanted as well.
    Raises `RuntimeError` with a service's own words when the stack does not come up.
    """
    relays = tuple(relays)
    ports = _free_ports((*SERVICES, "simulator", "sink", *(store.part for store in STORES), *relays))
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        environment, pepper = _environment(ports, tracing, home)
        environment |= settings
        ours, others = (None, None) if cores is None else (cores.ours, cores.others)
        started = time.perf_counter()
        pids = {}
        for store in STORES:
            directory = home / store.part
            directory.mkdir()
            command = store.command(ports[store.part], directory)
            pids[store.part] = _start(stack, store.part, command, environment, home, ours)
        for name in (*SERVICES, "simulator"):
            cpus = ours if name in SERVICES else others
            pids[name] = _start(stack, name, [sys.executable, "-m", name], environment, home, cpus)
        sink = [sys.executable, str(_HERE / "sink.py"), str(ports["sink"])]
        _start(stack, "sink", sink, environment, home, others)
        bare = {
            name: (ports[name], _start(stack, name, _relay(name, ports), environment, home, ours)) for name in relays
        }
        key, limited_key, spent_key = asyncio.run(_make_keys(environment["GATEWAY_STATE_URL"], pepper))
        _await_answer(ports["gateway"], key, home)
        del pids["simulator"]
        took_s = time.perf_counter() - started
        yield Stack(ports["gateway"], ports["simulator"], key, limited_key, spent_key, took_s, pids, bare)


def _free_ports(names: Iterable[str]) -> dict[str, int]:
    """One for each name, all different: each is held until all are found."""
    with contextlib.ExitStack() as held:
        listeners = {name: held.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names}
        return {name: listener.getsockname()[1] for name, listener in listeners.items()}


def _start(  # noqa: PLR0913, PLR0917  # what a process is made of
    stack: contextlib.ExitStack,
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    home: Path,
    cpus: frozenset[int] | None,
) -> int:
    # Logs go to a file, as to a collector's pipe: writing them is part of the price.
    log = stack.enter_context((home / f"{name}.log").open("wb"))
    process = subprocess.Popen(  # noqa: S603  # our own
        command,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=keeping_to(cpus),  # noqa: PLW1509  # there is one thread
    )
    stack.callback(_stop, process)
    return process.pid


def keeping_to(cpus: frozenset[int] | None) -> Callable[[], None] | None:
    """For `preexec_fn`: before a process has any thread."""
    return None if cpus is None else lambda: os.sched_setaffinity(0, cpus)


def _relay(name: str, ports: Mapping[str, int]) -> list[str]:
    return [sys.executable, str(_HERE / "bare_relay.py"), name, str(ports[name]), str(ports["simulator"])]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(ports: Mapping[str, int], tracing: str, home: Path) -> tuple[dict[str, str], str]:
    names = ("pepper", "seal", "cache_hop", "inference_hop")
    pepper, seal, cache_hop, inference_hop = (secrets.token_hex(32) for _ in names)
    url = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    inherited = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    environment = inherited | {
        **{f"{name.upper()}_PORT": str(ports[name]) for name in (*SERVICES, "simulator")},
        **{store.variable: store.url(ports[store.part]) for store in STORES},
        **{f"{name.upper()}_DRAIN_DELAY_S": "0" for name in SERVICES},
        "GATEWAY_CONNECTIONS_PER_ADDRESS": "0",  # all load comes from one
        "GATEWAY_KEY_PEPPER": pepper,
        "GATEWAY_SEAL_SECRET": seal,
        "GATEWAY_CACHE_URL": url["cache"],
        "GATEWAY_CACHE_HOP_SECRET": cache_hop,
        "GATEWAY_INFERENCE_URL": url["inference"],
        "GATEWAY_INFERENCE_HOP_SECRET": inference_hop,
        "CACHE_HOP_SECRET": cache_hop,
        "INFERENCE_HOP_SECRET": inference_hop,
        "INFERENCE_MODELS_FILE": str(_models_file(home, f"{url['simulator']}/v1")),
    }
    if tracing != "off":
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url["sink"],
            "OTEL_METRICS_EXPORTER": "none",  # what is measured is tracing
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": tracing,
        }
    return environment, pepper


def _models_file(home: Path, upstream: str) -> Path:
    batching = {MODEL: "", EMBED: ", batching: {max_items: 32, max_wait_ms: 5}", EMBED_ALONE: ""}
    models = [
        f"  {model}:\n    targets:\n      - {{name: {model}, base_url: {upstream}, max_concurrency: 10000{more}}}\n"
        for model, more in batching.items()
    ]
    file = home / "models.yaml"
    file.write_text("version: 1\nmodels:\n" + "".join(models))
    return file


def _is_ours(variable: str) -> bool:
    """Whether `variable` would make this stack another one than the next machine's."""
    return variable.startswith(("GATEWAY_", "CACHE_", "INFERENCE_", "SIMULATOR_", "OTEL_", "SPILLWAY_"))


async def _make_keys(state_url: str, pepper: str) -> list[str]:
    """Of the tenant `bench`: one without limits, one with ample and one with scarce ones."""
    store = connect(state_url)
    made = []
    async with store, asyncio.timeout(_START_S):
        while not await is_reachable(store):  # noqa: ASYNC110  # another process: there is no event to wait for
            await asyncio.sleep(_POLL_S)
        for limits in (Limits(), AMPLE, SCARCE):
            key = generate_key("bench")
            record = record_for(key.text, pepper=pepper, tenant="bench", name="bench")
            await put_key(store, replace(record, limits=limits))
            made.append(key.text)
    return made


def _await_answer(gateway_port: int, key: str, home: Path) -> None:
    give_up_at = time.perf_counter() + _START_S
    while not _answers(gateway_port, key):
        if time.perf_counter() > give_up_at:
            words = "\n".join(f"{log.stem}: {log.read_text()[-500:]}" for log in sorted(home.glob("*.log")))
            raise RuntimeError(f"the stack did not answer within {_START_S} s\n{words}")
        time.sleep(_POLL_S)


def _answers(port: int, key: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
