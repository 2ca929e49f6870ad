"""Jobs while workers die and freeze and their store goes away. Short in the suite; `./justw chaos jobs` takes its time:
60 s of faults, or SPILLWAY_CHAOS_S of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
import pytest
from redis import Redis

from support.chaos import chance, times
from support.deadly_worker import POISON
from support.job_worker import WorkerProcess
from support.platform import Platform, chat, eventually, make_key, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

LEASE_S = 2.0
HEAL_S = 90
FINAL = ("succeeded", "failed", "cancelled", "expired")
STALL = "[[sim ttft_ms=60000]]"
"""Longer than any test: only a cancellation ends it."""


@pytest.fixture
def own_state(tmp_path: Path) -> Iterator[Valkey]:
    with valkey("state", tmp_path) as server:
        yield server


@pytest.fixture
def own(own_state: Valkey, cache_store: Valkey) -> Iterator[Platform]:
    with platform(own_state.url, cache_store.url, workers=0) as started:
        yield started


@pytest.fixture
def workers(own_state: Valkey, own: Platform) -> Iterator[Callable[..., WorkerProcess]]:
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> WorkerProcess:
            worker = WorkerProcess(own_state.url, own.gateway, **settings)
            stack.callback(worker.close)
            return worker

        yield start


def submit(http: httpx2.Client, prompt: str, key: str = "", **fields: Any) -> str | None:
    """The id of a job once it was accepted, None for any other answer or none."""
    asked = {"endpoint": "/v1/chat/completions", "body": chat(prompt, **fields)}
    try:
        answer = http.post("/v1/jobs", json=asked, headers={"idempotency-key": key} if key else None)
    except httpx2.HTTPError:
        return None
    return str(answer.json()["id"]) if answer.status_code == 202 else None


def accepted(http: httpx2.Client, prompt: str) -> str:
    """The id of a job that has to be accepted: asked again while a busy machine's store is late."""
    key = uuid4().hex
    return eventually(lambda: submit(http, prompt, key))


def show(http: httpx2.Client, job_id: str) -> dict[str, Any] | None:
    """The job; None while the store is away. Any other answer is a lost job."""
    try:
        answer = http.get(f"/v1/jobs/{job_id}")
    except httpx2.HTTPError:
        return None
    assert answer.status_code in (200, 503), f"{job_id}: {answer.status_code} {answer.text}"
    found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
    return found


def wait_for(http: httpx2.Client, job_id: str, *states: str, within_s: float = 30) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        job = show(http, job_id)
        if job is not None and job["state"] in states:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} is not {states} but {show(http, job_id)}")


def states_of(http: httpx2.Client, job_id: str) -> list[dict[str, Any]]:
    """Every state that a job was in, of one that is final."""
    answer = eventually(lambda: answer if (answer := http.get(f"/v1/jobs/{job_id}/events")).is_success else None)
    events = answer.text.split("\n\n")
    return [json.loads(event.partition("data: ")[2]) for event in events if "event: state" in event]


def starts_of(http: httpx2.Client, job_id: str) -> int:
    return sum(state["state"] == "running" for state in states_of(http, job_id))


def mark_of(job: dict[str, Any]) -> str:
    """What must never change of a final job."""
    kept = {name: job[name] for name in ("state", "attempts", "finished_at", "result", "error")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


class History:
    """What clients saw: which job each key was promised, and how each ended when it was first seen to have ended."""

    def __init__(self) -> None:
        self.promised: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.broken: list[str] = []

    def promise(self, key: str, job_id: str) -> None:
        if self.promised.setdefault(key, job_id) != job_id:
            self.broken.append(f"{key} is {self.promised[key]} and {job_id}")

    def see(self, job: dict[str, Any] | None) -> bool:
        """Whether the job is final."""
        if job is None or job["state"] not in FINAL:
            return False
        if self.ended.setdefault(job["id"], mark_of(job)) != mark_of(job):
            self.broken.append(f"{job['id']} changed after its end")
        return True


def client(http: httpx2.Client, seed: int, history: History, number: int, stopping: threading.Event) -> None:
    """Submits, now and then twice under one key, insists until it is accepted, and looks at jobs that it has."""
    chosen = random.Random(seed)  # noqa: S311  # a test's
    for count in itertools.count():
        if stopping.wait(chosen.expovariate(8)):
            break
        key = f"c{number}-{count}"
        poison = POISON if chosen.random() < 0.01 else ""
        tokens, pause_ms = chosen.randint(1, 12), chosen.choice([0, 0, 0, 20, 200])
        fault = chosen.choice(["", "", "", "status=500 times=1", "status=503 times=1"])
        prompt = f"{key} {poison} [[sim tokens={tokens} itl_ms={pause_ms} {fault}]]"
        fields = {"stream": chosen.random() < 0.3}
        while not stopping.is_set():
            if (job_id := submit(http, prompt, key, **fields)) is not None:
                history.promise(key, job_id)
                if chosen.random() < 0.8:  # else: as if the answer had been lost, once more
                    break
            stopping.wait(0.1)
        if mine := [known for name, known in history.promised.copy().items() if name.startswith(f"c{number}-")]:
            history.see(show(http, chosen.choice(mine)))


def break_things(
    state: Valkey, start: Callable[..., WorkerProcess], chosen: random.Random, duration_s: float
) -> dict[str, int]:
    """Four workers: one killed each second, one frozen for longer than its lease each third; the store each eighth."""
    fleet = [start() for _ in range(4)]
    frozen: list[tuple[float, WorkerProcess]] = []
    done = {"kills": 0, "freezes": 0, "store_kills": 0}
    began = time.monotonic()
    for second in itertools.count(1):
        time.sleep(max(0, began + second - time.monotonic()))
        if time.monotonic() - began > duration_s:
            break
        place = chosen.randrange(4)
        fleet[place].kill()
        done["kills"] += 1
        if second % 3 == 0:
            victim = fleet[(place + 1) % 4]
            victim.freeze()
            frozen.append((time.monotonic() + LEASE_S + 1, victim))
            done["freezes"] += 1
        if second % 8 == 4:
            state.kill()
            time.sleep(chosen.uniform(0.1, 1.5))
            state.bring_back()
            done["store_kills"] += 1
        for until, victim in list(frozen):
            if time.monotonic() > until:
                victim.thaw()
                frozen.remove((until, victim))
        fleet = [worker if worker.is_alive else start() for worker in fleet]
    for _, victim in frozen:
        victim.thaw()
    while any(worker.is_alive for worker in fleet[2:]):  # two are left to heal
        fleet.pop().kill()
    return done


def keep_alive(fleet: list[WorkerProcess], start: Callable[..., WorkerProcess]) -> None:
    """As a supervisor does: poison may still be about."""
    for place, worker in enumerate(fleet):
        if not worker.is_alive:
            fleet[place] = start()


def test_every_accepted_job_ends_once_whatever_dies(
    own_state: Valkey, own: Platform, workers: Callable[..., WorkerProcess]
) -> None:
    chosen = chance()
    duration_s = float(os.environ.get("SPILLWAY_CHAOS_S") or times(8, 60))
    history, stopping = History(), threading.Event()
    with contextlib.ExitStack() as stack:
        https = [stack.enter_context(own.http(make_key(own.gateway, f"tenant{number}"))) for number in range(4)]
        with ThreadPoolExecutor(len(https)) as pool:
            clients = [
                pool.submit(client, http, chosen.randrange(2**32), history, number, stopping)
                for number, http in enumerate(https)
            ]
            try:
                done = break_things(own_state, workers, chosen, duration_s)
            finally:
                stopping.set()
        for one in clients:
            one.result()  # what went wrong in it, with its own words
        fleet = [workers(), workers()]
        owners = {job_id: https[int(key[1])] for key, job_id in history.promised.items()}
        deadline = time.monotonic() + HEAL_S + duration_s
        left = set(owners)
        while left and time.monotonic() < deadline:
            keep_alive(fleet, workers)
            left -= {job_id for job_id in left if history.see(show(owners[job_id], job_id))}
            time.sleep(0.2)
        assert not left, f"{len(left)} of {len(owners)} never ended: {[show(owners[one], one) for one in left]}"
        ends: dict[str, int] = {}
        for key, job_id in history.promised.items():
            job = wait_for(owners[job_id], job_id, *FINAL)
            history.see(job)
            ends[job["state"]] = ends.get(job["state"], 0) + 1
            starts = starts_of(owners[job_id], job_id)
            if job["state"] == "failed":
                assert (job["attempts"], job["error"]["code"]) == (3, "worker_lost"), (key, job)
                assert starts >= 3
    assert history.broken == []
    assert len(owners) > duration_s
    assert set(ends) <= {"succeeded", "failed"}
    print(f"\n{len(owners)} jobs, {ends}, {done}: 0 lost, 0 changed")  # noqa: T201  # what a long run is for


def test_a_poison_job_fails_after_three_starts_and_stops_nobody(
    own: Platform, workers: Callable[..., WorkerProcess]
) -> None:
    innocents = times(12, 60)
    fleet = [workers(), workers()]
    with own.http() as http:
        poison = accepted(http, POISON)
        others = [accepted(http, f"innocent {number}") for number in range(innocents)]
        deadline = time.monotonic() + 60
        while (job := show(http, poison)) is None or job["state"] not in FINAL:
            keep_alive(fleet, workers)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 3, "worker_lost")
        assert starts_of(http, poison) == 3
        for other in others:
            keep_alive(fleet, workers)
            assert wait_for(http, other, *FINAL)["state"] == "succeeded"


@pytest.mark.measured
def test_the_job_of_a_killed_worker_starts_again_within_its_lease_and_two_seconds(
    own_state: Valkey, own: Platform, workers: Callable[..., WorkerProcess]
) -> None:
    late = []
    with own.http() as http, Redis.from_url(own_state.url) as store:
        for number in range(times(2, 30)):
            busy = workers()
            job_id = accepted(http, f"{number} {STALL}")
            wait_for(http, job_id, "running")
            idle = workers()
            time.sleep(1)  # it is up, and has nothing to do
            busy.kill()
            seconds, microseconds = store.time()
            wait_for(http, job_id, "queued", "running")
            deadline = time.monotonic() + LEASE_S + 20
            while (job := show(http, job_id)) is None or job["attempts"] < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            http.delete(f"/v1/jobs/{job_id}")
            again = [state["at"] for state in states_of(http, job_id) if state["state"] == "running"][1]
            took_s = again - (seconds + microseconds / 1e6)
            late += [took_s] if took_s > LEASE_S + 2 else []
            idle.kill()
    assert late == []


def test_a_job_of_four_leases_starts_once(own: Platform, workers: Callable[..., WorkerProcess]) -> None:
    for _ in range(2):
        workers()
    with own.http() as http:
        job_id = accepted(http, f"[[sim ttft_ms={round(4 * LEASE_S * 1000)}]]")
        assert wait_for(http, job_id, *FINAL)["state"] == "succeeded"
        assert starts_of(http, job_id) == 1


def test_a_worker_that_was_frozen_cannot_change_what_another_has_finished(
    own: Platform, workers: Callable[..., WorkerProcess]
) -> None:
    with own.http() as http:
        for number in range(times(2, 50)):
            frozen = workers()
            job_id = accepted(http, f"{number} [[sim ttft_ms=1500]]")
            wait_for(http, job_id, "running")
            frozen.freeze()  # its answer comes into its socket meanwhile
            other = workers()
            job = wait_for(http, job_id, *FINAL)
            assert (job["state"], job["attempts"]) == ("succeeded", 2)
            frozen.thaw()
            time.sleep(0.3)  # it reads its answer, and would finish
            assert frozen.is_alive
            assert mark_of(wait_for(http, job_id, *FINAL)) == mark_of(job)
            frozen.kill()
            other.kill()


def test_a_worker_that_is_stopped_gives_its_jobs_back_at_once(
    own: Platform, workers: Callable[..., WorkerProcess]
) -> None:
    patient = {"lease_s": 60, "heartbeat_s": 5}  # nothing comes back because a lease ended
    with own.http() as http:
        first = workers(**patient)
        job_id = accepted(http, STALL)
        wait_for(http, job_id, "running")
        assert first.stop() == 0
        job = wait_for(http, job_id, "queued")
        assert job["attempts"] == 0
        workers(**patient)
        assert wait_for(http, job_id, "running")["attempts"] == 1
        http.delete(f"/v1/jobs/{job_id}")


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_while_the_store_is_gone_nothing_is_accepted_and_what_was_is_run_afterwards(
    own_state: Valkey, own: Platform, workers: Callable[..., WorkerProcess], fault: str
) -> None:
    with own.http() as http:
        before = [accepted(http, f"before {number}") for number in range(5)]
        worker = workers()
        wait_for(http, before[-1], *FINAL)
        waiting = accepted(http, f"{fault} [[sim ttft_ms={round(LEASE_S * 500)}]]")
        wait_for(http, waiting, "running")
        own_state.freeze() if fault == "freeze" else own_state.kill()
        for path, answer in (
            ("submit", http.post("/v1/jobs", json={"endpoint": "/generate", "body": {"prompt": "x"}})),
            ("show", http.get(f"/v1/jobs/{waiting}")),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "job_store_unavailable"), path
            assert int(answer.headers["retry-after"]) >= 1
        own_state.thaw() if fault == "freeze" else own_state.bring_back()
        assert wait_for(http, waiting, *FINAL)["state"] == "succeeded"
        assert starts_of(http, waiting) <= 2
        assert worker.is_alive
        after = submit(http, "after")
        assert after
        assert wait_for(http, after, *FINAL)["state"] == "succeeded"
