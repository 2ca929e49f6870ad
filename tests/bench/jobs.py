"""`./justw bench jobs`: how fast a job is accepted, how many a second get done, and what one costs in CPU.

Two lanes over the stack as `up` starts it, with two workers, one trace in ten: *accept*, an open loop of submissions at
a fixed rate, latency from the intended moment; *drain*, a backlog submitted before, until nothing is open.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # for what it was, this file is `jobs`

from bench.stack import _cpu_ms  # noqa: E402  # found through the line above
from common.http_client import create_client  # noqa: E402  # as above
from e2e.up_process import UpProcess  # noqa: E402  # as above

PARTS = ("gateway", "inference", "cache", "jobs", "jobs.worker")
SAMPLING = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
BOUNDS = {"JOBS_MAX_OPEN_PER_TENANT": "100000", "JOBS_MAX_OPEN": "100000"}


async def accept(client: Any, rate: float, count: int) -> list[float]:
    """Seconds from the intended moment to the 202."""
    moments = random.Random(1)  # noqa: S311  # the same moments every time
    took: list[float] = []

    async def once(intended: float, number: int) -> None:
        body = {"prompt": f"job {number} of {time.time()} [[sim tokens=1]]"}
        answer = await client.post("/v1/jobs", json={"endpoint": "/generate", "body": body})
        assert answer.status_code == 202, answer.text  # a figure of refusals is none
        took.append(time.perf_counter() - intended)

    at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            at += moments.expovariate(rate)
            await asyncio.sleep(at - time.perf_counter())
            group.create_task(once(at, number))
    return sorted(took)


async def counts(client: Any, admin_key: str) -> dict[str, int]:
    answer = await client.get("/admin/jobs?limit=1", headers={"authorization": f"Bearer {admin_key}"})
    found: dict[str, int] = answer.json()["counts"]
    return found


async def until_done(client: Any, admin_key: str) -> float:
    """Wait until nothing is open; the moment of it, to 50 ms."""
    while True:
        found = await counts(client, admin_key)
        if not found["queued"] + found["running"] + found["delayed"]:
            return time.perf_counter()
        await asyncio.sleep(0.05)


async def measure(up: UpProcess, asked: argparse.Namespace) -> None:
    key, admin_key = up.client["OPENAI_API_KEY"], up.client["SPILLWAY_ADMIN_KEY"]
    async with create_client(base_url=up.client["SPILLWAY_URL"]) as client:
        client.headers["authorization"] = f"Bearer {key}"
        worker = [sys.executable, "-m", "devstack", "run", "worker"]
        with subprocess.Popen(worker, env=up.env, stdout=subprocess.DEVNULL) as second:  # noqa: S603, ASYNC220  # ours
            await accept(client, 50, 50)  # warm
            await until_done(client, admin_key)
            took = await accept(client, asked.rate, round(asked.rate * asked.seconds))
            p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
            print(f"accept: {len(took)} at {asked.rate:g}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")  # noqa: T201  # the report
            await until_done(client, admin_key)
            workers = [*up.pids(" -m jobs.worker"), second.pid]
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)  # a backlog builds up
            await accept(client, 150, asked.backlog)
            pids = {part: up.service_pid(part) for part in PARTS} | {"second worker": second.pid}
            before = {part: _cpu_ms(pid) for part, pid in pids.items()}
            began = time.perf_counter()
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            took_s = await until_done(client, admin_key) - began
            cpu = {part: (_cpu_ms(pid) - before[part]) / asked.backlog for part, pid in pids.items()}
            second.terminate()
        parts = ", ".join(f"{part} {ms:.2f}" for part, ms in cpu.items())
        print(f"drain: {asked.backlog} jobs in {took_s:.1f} s, {asked.backlog / took_s:.0f} jobs/s")  # noqa: T201  # as above
        print(f"CPU per job: {sum(cpu.values()):.2f} ms ({parts})")  # noqa: T201  # as above


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench jobs", description=__doc__)
    parser.add_argument("--rate", type=float, default=50, help="submissions/s (50)")
    parser.add_argument("--seconds", type=float, default=20, help="of the accept lane (20)")
    parser.add_argument("--backlog", type=int, default=2_000, help="jobs of the drain lane (2000)")
    asked = parser.parse_args()
    settings: dict[str, Any] = {**SAMPLING, **BOUNDS}
    with tempfile.TemporaryDirectory(prefix="bench-") as home, UpProcess(Path(home) / "local", **settings) as up:
        asyncio.run(measure(up, asked))


if __name__ == "__main__":
    main()
