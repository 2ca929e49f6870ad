"""A job through the stack as users start it: from 202 to its result, its trace, and what an operator does."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_client
from e2e.up_process import devstack

if TYPE_CHECKING:
    from devstack.trace_tree import Tree
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e
TRACE_S = 15


def submit(stack: UpProcess, directive: str, **fields: Any) -> httpx2.Response:
    chat = {"model": "sim-small", "messages": [{"role": "user", "content": f"{uuid.uuid4()} {directive}"}], **fields}
    answer = httpx2.post(
        f"{stack.client['SPILLWAY_URL']}/v1/jobs",
        json={"endpoint": "/v1/chat/completions", "body": chat},
        headers=authorization(stack),
        timeout=10,
    )
    assert answer.status_code == 202, answer.text
    return answer


def authorization(stack: UpProcess) -> dict[str, str]:
    return {"authorization": f"Bearer {stack.client['OPENAI_API_KEY']}"}


def ended(stack: UpProcess, job_id: str) -> dict[str, Any]:
    url = f"{stack.client['SPILLWAY_URL']}/v1/jobs/{job_id}?wait=30"
    job: dict[str, Any] = httpx2.get(url, headers=authorization(stack), timeout=40).json()
    assert job["finished_at"], job
    return job


def names_of(tree: Tree) -> Counter[tuple[str, str]]:
    return Counter((span.service, span.name) for span in tree.walk())


def test_one_trace_shows_submission_waiting_each_attempt_and_the_upstream_calls(stack: UpProcess) -> None:
    submitted = submit(stack, "[[sim status=500 times=1]]")
    assert ended(stack, submitted.json()["id"])["attempts"] == 2
    wanted = {
        ("gateway", "POST /v1/jobs"): 1,
        ("jobs", "POST /v1/jobs"): 1,
        ("worker", "job wait"): 2,
        ("worker", "job attempt"): 2,
        ("gateway", "POST /v1/chat/completions"): 2,
        ("inference", "POST /v1/chat/completions"): 2,
        ("inference", "chat sim-small"): 2,
        ("inference", "attempt"): 2,
    }

    def is_complete(tree: Tree) -> bool:
        return all(names_of(tree)[name] == count for name, count in wanted.items()) and not tree.problems

    trace_id = submitted.headers["x-trace-id"]
    tree = trace_client.wait_for(stack.client["SPILLWAY_TRACES_URL"], trace_id, is_complete, TRACE_S)
    assert {name: names_of(tree)[name] for name in wanted} == wanted
    assert tree.problems == []
    attempts = [span for span in tree.walk() if span.name == "job attempt"]
    assert [span.attributes["spillway.job.attempt"] for span in attempts] == [1, 2]
    assert [span.status == "error" for span in attempts] == [True, False]


def test_an_operator_lists_shows_retries_and_purges_dead_letters(stack: UpProcess) -> None:
    job_id = submit(stack, "canary-of-jobs [[sim status=500]]").json()["id"]
    assert ended(stack, job_id)["state"] == "failed"
    listed = devstack(stack.env, "jobs", "list")
    assert (listed.returncode, job_id in listed.stdout) == (0, True), listed.stderr
    shown = devstack(stack.env, "jobs", "show", job_id).stdout
    assert '"tenant": "dev"' in shown
    again = devstack(stack.env, "jobs", "retry", job_id)
    assert (again.returncode, f'"retry_of": "{job_id}"' in again.stdout) == (0, True), again.stderr
    assert devstack(stack.env, "jobs", "purge", job_id).returncode == 0
    assert job_id not in devstack(stack.env, "jobs", "list").stdout
    missing = devstack(stack.env, "jobs", "purge", job_id)
    assert (missing.returncode, missing.stderr) == (1, "jobs: No such dead letter.\n")
    assert "canary-of-jobs" not in shown + listed.stdout + again.stdout + stack.log
