"""A job through the stack as users start it: from 202 to its result, its trace, and what an operator does."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from devstack import trace_client
from gateway.cli.commands import main

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


def test_an_operator_lists_shows_retries_and_purges_dead_letters(
    stack: UpProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def jobs(line: str) -> str:
        status = main(["jobs", *line.split()], stack.client)
        told.append(capsys.readouterr().out)
        assert status == 0
        return told[-1]

    job_id = submit(stack, "canary-of-jobs [[sim status=500]]").json()["id"]
    assert ended(stack, job_id)["state"] == "failed"
    head, *rows, counts = (row.split() for row in jobs("list").splitlines())
    (row,) = (dict(zip(head, row, strict=True)) for row in rows if row[0] == job_id)
    assert (row["state"], row["tenant"], row["attempts"]) == ("failed", "dev", "3")
    assert row["created_at"].endswith("Z")
    assert counts[:2] == ["all", "tenants:"]
    assert json.loads(jobs(f"show {job_id} --json"))["tenant"] == "dev"
    assert ["retry_of", job_id] in [line.split() for line in jobs(f"retry {job_id}").splitlines()]
    assert jobs(f"purge {job_id}") == f"{job_id} purged\n"
    assert job_id not in jobs("list")
    assert jobs("list --state all --limit 1 --tenant nobody").startswith("no jobs of nobody\n")
    assert main(["jobs", "purge", job_id], stack.client) == 1
    assert capsys.readouterr().err == "jobs purge: 404: No such dead letter. (id)\n"
    assert "canary-of-jobs" not in "".join(told) + stack.log
