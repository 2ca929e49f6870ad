"""What the instruments of the jobs service say, against what became of the jobs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from common.figures import Figures
from jobs.metrics import Metrics
from jobs.store import JobStore
from support.instruments import Instruments
from support.job_queue import HOUR, LEASE, JobQueue
from support.platform import BOUND_S, chat, eventually, platform
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx2

    from support.platform import Platform

OFTEN_S = 0.01
FIGURES = ("spillway.jobs.queue.length", "spillway.jobs.queue.oldest_age", "spillway.jobs.dead_letters")


@pytest.fixture
async def queue(state_store: Valkey) -> AsyncIterator[JobQueue]:
    found = JobQueue(state_store.url)
    yield found
    await found.close()


def store_of(queue: JobQueue) -> JobStore:
    return JobStore(queue.redis, max_bytes=queue.max_bytes, prefix=queue.prefix)


async def becomes(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not look():  # noqa: ASYNC110  # the watch is a task of this loop, it makes progress
            await asyncio.sleep(OFTEN_S)


@pytest.fixture
async def measured(state_store: Valkey) -> AsyncIterator[tuple[JobQueue, Instruments]]:
    instruments = Instruments()
    metrics = Metrics(instruments.meter)
    queue = JobQueue(state_store.url, note_end=metrics.ended)
    metrics.observe_api(queue.transitions, Figures(store_of(queue).figures))
    yield queue, instruments
    await queue.close()


async def test_a_job_is_finished_once_and_lasted_from_its_submission_to_its_end(
    measured: tuple[JobQueue, Instruments],
) -> None:
    queue, instruments = measured
    assert [point.value for point in instruments.points("spillway.jobs.finished")] == [0, 0, 0, 0]
    await queue.accepted("good", "late", "left", endpoint="/generate")
    await queue.accepted("dead", tenant="bob", endpoint="/v1/embeddings", max_attempts=1)
    claims = {claim.id: claim for claim in [await queue.claim() for _ in range(4)]}
    queue.now += 7_000
    for _ in range(2):  # the first reply was lost
        await queue.transitions.finish(claims["good"], "succeeded", result=b"x")
        await queue.transitions.cancel("left", tenant="alice")
        await queue.transitions.release(claims["dead"], give_back=False, error=b"e", code="upstream_failed")
    queue.now += HOUR
    await queue.transitions.reap()
    assert instruments.by("spillway.jobs.finished", "state") == {
        "succeeded": 1,
        "cancelled": 1,
        "failed": 1,
        "expired": 1,
    }
    assert instruments.by("spillway.jobs.submitted", "endpoint") == {"/generate": 3, "/v1/embeddings": 1}
    assert instruments.by("spillway.jobs.duration", "state") == instruments.by("spillway.jobs.finished", "state")
    assert instruments.total("spillway.jobs.duration", {"state": "succeeded"}) == 7
    assert instruments.total("spillway.jobs.duration", {"state": "expired"}) == 7 + HOUR / 1000


async def test_the_queues_figures_are_those_of_the_store(queue: JobQueue) -> None:
    store = store_of(queue)
    assert (await store.figures()).oldest_age_s == 0
    queue.now = int(time.time() * 1000) - 100_000  # the store's own clock says how old a job is
    await queue.accepted("first", "second", max_attempts=1)
    await queue.accepted("third", tenant="bob")
    figures = await store.figures()
    assert figures.lengths == {"queued": 3, "running": 0, "delayed": 0}
    assert 100 <= figures.oldest_age_s < 100 + BOUND_S
    claims = [await queue.claim() for _ in range(2)]
    await queue.transitions.release(claims[0], give_back=False, error=b"e", code="upstream_failed")
    await queue.transitions.release(claims[1], give_back=True, delay_ms=LEASE)
    figures = await store.figures()
    assert figures.lengths == {"queued": 1, "running": 0, "delayed": 1}
    assert figures.dead_letters == 1
    await queue.claim()
    assert (await store.figures()).oldest_age_s == 0


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store of this test's own, to be frozen."""
    with valkey("state", tmp_path_factory.mktemp("own")) as server:
        yield server


async def test_a_store_that_is_frozen_leaves_no_figures_and_a_scrape_does_not_wait_for_it(own: Valkey) -> None:
    queue, instruments = JobQueue(own.url), Instruments()
    figures = Figures(JobStore(queue.redis, max_bytes=10**9).figures, interval_s=OFTEN_S)
    Metrics(instruments.meter).observe_api(queue.transitions, figures)
    async with figures.watching():
        await becomes(lambda: all(instruments.points(name) for name in FIGURES))
        own.freeze()
        # Each of these is a scrape, made by the loop that the watch needs too: one that waited would wait for ever.
        await becomes(lambda: all(not instruments.points(name) for name in FIGURES))
        own.thaw()
        await becomes(lambda: all(instruments.points(name) for name in FIGURES))
    await queue.close()


def submitted(http: httpx2.Client, body: dict[str, Any]) -> str:
    answer = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def state_of(http: httpx2.Client, job_id: str, *wanted: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] in wanted else None

    return eventually(look)


def over_all(stack: Platform, name: str, attribute: str) -> dict[object, float]:
    """The sum over the processes that count."""
    found: dict[object, float] = {}
    for service in ("jobs", "worker"):
        for key, value in stack.instruments[service].by(name, attribute).items():
            found[key] = found.get(key, 0) + value
    return found


def test_the_life_of_jobs_is_counted_by_the_processes_that_made_it(
    own: Valkey, cache_store: Valkey, prompt: str
) -> None:
    with platform(own.url, cache_store.url) as stack, stack.http() as http:
        good = submitted(http, chat(prompt))
        again = submitted(http, chat(f"{prompt} [[sim status=500 times=1]]"))
        bad = submitted(http, chat(f"{prompt} [[sim status=422]]"))
        dead = submitted(http, chat(f"{prompt} [[sim status=500]]"))
        held = submitted(http, chat(f"{prompt} [[sim ttft_ms=60000]]"))
        ended = [state_of(http, job_id, "succeeded", "failed") for job_id in (good, again, bad, dead)]
        assert [job["state"] for job in ended] == ["succeeded", "succeeded", "failed", "failed"]
        state_of(http, held, "running")
        http.delete(f"/v1/jobs/{held}")
        worker = stack.instruments["worker"]
        attempts = {"succeeded": 2, "attempt_failed": 1 + 3, "failed": 1, "stopped": 1}
        eventually(lambda: worker.by("spillway.jobs.attempts", "outcome") == attempts)  # a moment after the record
        assert worker.value("spillway.jobs.queue.wait") == sum(attempts.values())
        assert over_all(stack, "spillway.jobs.finished", "state") == {"succeeded": 2, "failed": 2, "cancelled": 1}
        assert over_all(stack, "spillway.jobs.duration", "state") == {"succeeded": 2, "failed": 2, "cancelled": 1}
        jobs = stack.instruments["jobs"]
        assert jobs.by("spillway.jobs.submitted", "endpoint") == {"/v1/chat/completions": 5}
        eventually(lambda: jobs.value("spillway.jobs.dead_letters") == 1)
        assert jobs.value("spillway.jobs.queue.length") == 0
        assert jobs.value("spillway.jobs.queue.oldest_age") == 0
