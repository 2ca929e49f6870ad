"""`demo`: shows what the stack promises, on the running one or on one of its own, and checks that it was seen."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openai import OpenAI, OpenAIError

from devstack import env_file, local_dir, local_http, trace_client, trace_tree
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from devstack.local_http import Answer
    from devstack.trace_tree import Tree

_READY_TIMEOUT_S = 40
_STORED_TIMEOUT_S = 2
"""An answer is stored after it was sent."""
_TRACE_TIMEOUT_S = 10
"""Spans leave a service in batches, every half second."""
_REQUEST_TIMEOUT_S = 60
_POLL_S = 0.05
_FAILURES = 2
_TOKENS = 20
_BETWEEN_TOKENS_MS = 30
_WAIT_S = 30
_STAGES = (("started_at", "created_at"), ("finished_at", "started_at"))
_OF_A_JOB = {"POST /v1/jobs", "job wait", "job attempt", "attempt"}


class _NotSeenError(Exception):
    """What a step promised did not happen; the message says what happened instead."""


@dataclass(frozen=True)
class _Stack:
    url: str
    key: str
    model: str
    simulator_url: str | None
    traces_url: str | None

    def generate(self, prompt: str) -> Answer:
        answer = self.ask("/generate", {"prompt": prompt, "model": self.model})
        _expect(answer.status == 200, f"/generate answered {answer.status}: {answer.body.decode(errors='replace')}")  # noqa: PLR2004  # OK
        return answer

    def ask(self, path: str, body: object = None) -> Answer:
        headers = {"authorization": f"Bearer {self.key}"}
        return local_http.request(f"{self.url}{path}", body=body, headers=headers, timeout_s=_REQUEST_TIMEOUT_S)


def run() -> None:
    """Show every step. Raises `CommandError` that lists the steps whose promise was not seen."""
    failed = []
    with _stack() as stack:
        for title, step in (
            ("The same question twice: the second answer comes from the cache", _show_cache),
            ("A stream through the official SDK, token by token", _show_stream),
            ("An upstream that fails twice, and the trace of that request", _show_retries),
            ("A job: accepted, run by a worker, polled; and its trace", _show_job),
        ):
            print(f"\n== {title}")
            try:
                step(stack)
            except (_NotSeenError, local_http.UnreachableError, OpenAIError, CommandError) as error:
                print(f"NOT SEEN: {error}")
                failed.append(title)
    if failed:
        raise CommandError(f"not seen: {'; '.join(failed)}")
    print("\nEverything shown was checked.")


def _show_cache(stack: _Stack) -> None:
    prompt = f"Say hello to visitor {uuid.uuid4()}"
    first = _timed(stack, prompt)
    _expect(_cache_state(first) == (False, "miss"), f"the first answer said {_cache_state(first)}")
    deadline = time.monotonic() + _STORED_TIMEOUT_S
    while True:
        second = _timed(stack, prompt)
        if _cache_state(second) == (True, "hit"):
            break
        _expect(time.monotonic() < deadline, f"the second answer said {_cache_state(second)}")
        time.sleep(_POLL_S)
    _expect(first.json()["result"] == second.json()["result"], "the two answers differ")


def _timed(stack: _Stack, prompt: str) -> Answer:
    started = time.monotonic()
    answer = stack.generate(prompt)
    took_ms = (time.monotonic() - started) * 1e3
    print(f"{answer.headers.get('x-cache', '?'):4} {took_ms:8.1f} ms  {answer.json()['result'][:70]!r}")
    return answer


def _cache_state(answer: Answer) -> tuple[object, str | None]:
    return answer.json().get("cached"), answer.headers.get("x-cache")


def _show_stream(stack: _Stack) -> None:
    prompt = f"Tell visitor {uuid.uuid4()} about rivers"
    if stack.simulator_url:
        prompt += f" [[sim itl_ms={_BETWEEN_TOKENS_MS} tokens={_TOKENS}]]"
    client = OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, timeout=_REQUEST_TIMEOUT_S)
    arrivals = []
    with client:
        messages = client.chat.completions.create(
            model=stack.model, messages=[{"role": "user", "content": prompt}], stream=True
        )
        for chunk in messages:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                arrivals.append(time.monotonic())
                print(text, end="", flush=True)
    print()
    _expect(len(arrivals) > 1, f"{len(arrivals)} pieces of text arrived")
    spread_s = arrivals[-1] - arrivals[0]
    # Half of what the simulator was told to take: a gateway that buffers would deliver all of it at once.
    least_s = (_TOKENS - 1) * _BETWEEN_TOKENS_MS / 2e3 if stack.simulator_url else 0
    _expect(spread_s > least_s, f"all {len(arrivals)} pieces arrived within {spread_s:.3f} s")
    print(f"{len(arrivals)} pieces over {spread_s:.2f} s")


def _show_retries(stack: _Stack) -> None:
    if stack.simulator_url is None:
        print("skipped: a real upstream does not fail on request; unset its variables to see this with the simulator")
        return
    answer = stack.generate(f"Visitor {uuid.uuid4()} is patient [[sim status=503 times={_FAILURES}]]")
    attempts = answer.headers.get("x-upstream-attempts")
    _expect(attempts == str(_FAILURES + 1), f"x-upstream-attempts is {attempts}")
    request_id = answer.headers["x-request-id"]
    log = local_http.request(f"{stack.simulator_url}/_sim/requests?request_id={request_id}").json()["requests"]
    statuses = [attempt["status"] for attempt in log]
    _expect(statuses == [503] * _FAILURES + [200], f"the simulator saw {statuses}")
    print(f"200 to the caller; the upstream answered {', '.join(map(str, statuses))}\n")
    _show_trace(stack, answer.headers.get("x-trace-id"))


def _show_job(stack: _Stack) -> None:
    body = {"prompt": f"Tell visitor {uuid.uuid4()} about patience", "model": stack.model}
    accepted = stack.ask("/v1/jobs", {"endpoint": "/generate", "body": body})
    _expect(accepted.status == 202, f"/v1/jobs answered {accepted.status}: {accepted.body.decode(errors='replace')}")  # noqa: PLR2004  # Accepted
    path = accepted.headers["location"]
    print(f"202  {path}  {accepted.json()['state']}")
    job = stack.ask(f"{path}?wait={_WAIT_S}").json()
    _expect(job["state"] == "succeeded", f"the job is {job['state']}: {job['error']}")
    waited_ms, ran_ms = (round(1e3 * (job[end] - job[start])) for end, start in _STAGES)
    print(f"200  {job['state']} after {waited_ms} ms in the queue and {ran_ms} ms of work")
    print(f"     {job['result']['result'][:70]!r}\n")
    if (tree := _drawn(stack, accepted.headers.get("x-trace-id"), _is_whole_job)) is not None:
        _expect(_is_whole_job(tree), f"the trace lacks {_OF_A_JOB - _names(tree)}; {tree.problems}")


def _is_whole_job(tree: Tree) -> bool:
    return not tree.problems and _names(tree) >= _OF_A_JOB


def _names(tree: Tree) -> set[str]:
    return {span.name for span in tree.walk()}


def _show_trace(stack: _Stack, trace_id: str | None) -> None:
    if (tree := _drawn(stack, trace_id, _is_complete)) is not None:
        _expect(_is_complete(tree), f"the trace has {_attempts(tree)} attempts of {_FAILURES + 1}; {tree.problems}")


def _drawn(stack: _Stack, trace_id: str | None, is_complete: Callable[[Tree], bool]) -> Tree | None:
    """Draw a trace as soon as it is complete, or what has come of it by then; None when traces go elsewhere."""
    if stack.traces_url is None:
        print("its trace is skipped: OTEL_EXPORTER_OTLP_ENDPOINT sends it elsewhere")
        return None
    if trace_id is None:
        raise _NotSeenError("the answer names no x-trace-id")
    tree = trace_client.wait_for(stack.traces_url, trace_id, is_complete, _TRACE_TIMEOUT_S)
    print("\n".join(trace_tree.draw(trace_id, tree)))
    return tree


def _is_complete(tree: Tree) -> bool:
    return not tree.problems and _attempts(tree) == _FAILURES + 1


def _attempts(tree: Tree) -> int:
    return sum("spillway.attempt.number" in span.attributes for span in tree.walk())


def _expect(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise _NotSeenError(otherwise)


@contextlib.contextmanager
def _stack() -> Iterator[_Stack]:
    """Yield the running stack, or one that is started here and stopped again."""
    local = LocalDir.from_environ(os.environ)
    if local_dir.running_pid(local) is not None:
        yield _read(local, None)
        return
    print("no stack is running: starting one, which is stopped at the end")
    local.root.mkdir(parents=True, exist_ok=True)
    local.dev_env.unlink(missing_ok=True)
    with local.demo_log.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "devstack", "up"], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _read(local, process)
    finally:
        process.terminate()
        process.wait()


def _read(local: LocalDir, process: subprocess.Popen[bytes] | None) -> _Stack:
    """Wait until the stack has announced itself, which is when it writes dev.env, and read how to talk to it."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not local.dev_env.exists():
        if (process and process.poll() is not None) or time.monotonic() > deadline:
            raise CommandError(f"the stack does not start; what it said is in {local.demo_log}")
        time.sleep(_POLL_S)
    client, stack = env_file.read(local.dev_env), env_file.read(local.stack_env)
    model = stack.get("GATEWAY_DEFAULT_MODEL")
    if model is None:
        raise CommandError("the upstream lists no model: set GATEWAY_DEFAULT_MODEL and start the stack again")
    return _Stack(
        url=client["SPILLWAY_URL"],
        key=client["OPENAI_API_KEY"],
        model=model,
        simulator_url=client.get("SPILLWAY_SIMULATOR_URL"),
        traces_url=client.get("SPILLWAY_TRACES_URL"),
    )
