"""The jobs' store runs out of disk or memory: nothing is answered 202 that is not there afterwards."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from devstack.stores import STORES
from support.platform import Platform, chat, platform
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx2

    from support.valkey import Valkey

pytestmark = pytest.mark.chaos
(STATE,) = (store for store in STORES if store.name == "state")
FILE_BYTES = 256 * 1024
BOUND_S = 20


class SmallDisk:
    """The *state* store with a bound on its files. Writing beyond it fails as on a full disk, with another errno (EFBIG
    for ENOSPC), which the server treats alike; unlike a small file system it needs no privileges.
    """

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, file_bytes: int = resource.RLIM_INFINITY) -> None:
        def bound() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write() fails instead of the process
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))

        command = STATE.command(self.port, self._data_dir)
        self._process = subprocess.Popen(command, preexec_fn=bound, restore_signals=False)  # noqa: PLW1509, S603  # a test's, no threads hold its locks
        with Redis.from_url(self.url) as probe:
            deadline = time.monotonic() + BOUND_S
            while True:
                with contextlib.suppress(Exception):
                    probe.ping()
                    return
                assert time.monotonic() < deadline
                time.sleep(0.02)

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def exit_status(self) -> int:
        assert self._process is not None
        return self._process.wait(BOUND_S)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(BOUND_S)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    store = SmallDisk(tmp_path)
    try:
        yield store
    finally:
        store.close()


def submit(http: httpx2.Client, number: int) -> httpx2.Response:
    body = {"endpoint": "/v1/chat/completions", "body": chat(f"{number} {'x' * 4_000}")}
    return http.post("/v1/jobs", json=body)


def accept_until(http: httpx2.Client, is_over: Callable[[httpx2.Response], bool]) -> list[str]:
    """Submit until a refusal of which `is_over` says that it is the one; a store that was late refuses as well."""
    accepted: list[str] = []
    for number in range(2_000):
        answer = submit(http, number)
        if answer.status_code == 202:
            accepted.append(answer.json()["id"])
            continue
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        if is_over(answer):
            break
    assert 5 < len(accepted) < 2_000
    return accepted


def all_are_there(http: httpx2.Client, accepted: list[str]) -> None:
    deadline = time.monotonic() + BOUND_S
    while submit(http, -1).status_code != 202:
        assert time.monotonic() < deadline, "jobs are accepted again"
    for job_id in accepted:
        answer = http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, f"{job_id} was acknowledged: {answer.text}"


@pytest.mark.skipif(sys.platform != "linux", reason="the bound on a file's size behaves so on Linux")
def test_on_a_full_disk_no_job_is_accepted_that_is_not_there_afterwards(
    small_disk: SmallDisk, cache_store: Valkey
) -> None:
    small_disk.start(FILE_BYTES)
    with platform(small_disk.url, cache_store.url, workers=0) as started, started.http() as http:
        accepted = accept_until(http, lambda _: small_disk.has_ended)
        assert small_disk.exit_status() != 0  # the server ends rather than to answer for what it could not write
        assert submit(http, 0).status_code == 503
        small_disk.start()
        all_are_there(http, accepted)


def test_at_maxmemory_jobs_are_refused_reading_and_finishing_go_on_and_keys_can_be_made(
    small_disk: SmallDisk, cache_store: Valkey
) -> None:
    small_disk.start()
    with (
        platform(small_disk.url, cache_store.url, workers=1) as started,
        started.http() as http,
        Redis.from_url(small_disk.url) as store,
    ):
        stalled = http.post("/v1/jobs", json={"endpoint": "/generate", "body": {"prompt": "[[sim ttft_ms=1500]]"}})
        running = stalled.json()["id"]
        wait_until(http, running, "running")
        store.config_set("maxmemory", store.info("memory")["used_memory"] // 2)  # whatever is freed meanwhile
        for number in range(20):
            answer = submit(http, number)
            assert (answer.status_code, answer.json()["error"]["code"]) in (
                (503, "job_store_unavailable"),
                (503, "job_queue_full"),
            )
        assert http.get(f"/v1/jobs/{running}").status_code == 200
        wait_until(http, running, "succeeded")
        store.config_set("maxmemory", 0)
        all_are_there(http, [running])


def test_jobs_take_half_of_the_stores_memory_at_most(small_disk: SmallDisk, cache_store: Valkey) -> None:
    small_disk.start()
    with Redis.from_url(small_disk.url) as store:
        store.config_set("maxmemory", 16 * 2**20)
        own = {"max_open_per_tenant": 100_000, "max_open": 100_000}
        with platform(small_disk.url, cache_store.url, workers=0, of_jobs=own) as started, started.http() as http:
            accepted = accept_until(http, lambda answer: answer.json()["error"]["code"] == "job_queue_full")
            used = int(store.get("v1:{jobs}:bytes") or 0)
            assert 7.9 * 2**20 < used <= 8 * 2**20
            assert store.info("memory")["used_memory"] < 14 * 2**20
            assert started_makes_keys(started)
            assert len(accepted) > 500


def wait_until(http: httpx2.Client, job_id: str, state: str) -> None:
    deadline = time.monotonic() + BOUND_S
    while http.get(f"/v1/jobs/{job_id}").json()["state"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started_makes_keys(started: Platform) -> bool:
    with started.http("the-admin-key-of-the-tests") as admin:
        return admin.post("/admin/keys", json={"tenant": "carol", "name": "x"}).status_code == 201
