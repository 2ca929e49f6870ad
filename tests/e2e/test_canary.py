"""A secret that callers send, in every place where one can be sent, on every way and with every fault, is found nowhere
afterwards: in no log, span, metric, name in a store, and in no answer to anybody else; and what is kept is sealed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from redis import Redis

from devstack import env_file
from e2e import canary
from e2e.canary import LABEL, MODEL, PATH, SECRET, TENANT
from e2e.up_process import UpProcess, replica, wait_until
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PATHS = json.loads((Path(__file__).parents[2] / "docs/openapi/gateway.json").read_text())["paths"]
UPSTREAM_FAULTS = (
    "", "status=400", "status=401", "status=429", "status=500", "status=503", "how=fin", "how=rst cut_after=2",
    "how=html cut_after=1", "how=end cut_after=2", "how=error cut_after=2", "how=garbage cut_after=2", "nonsense",
    "status=503 times=2", "tokens=50 itl_ms=1", "how=stall",
)  # fmt: skip
ECHOED = f"{SECRET}=1"
"""A fault whose error repeats it: a caller may see what it sent, and nobody else."""
IMPATIENT = {"x-request-timeout-ms": "1500"}
CHAT = "/v1/chat/completions"
JOBS = "/v1/jobs"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = {
    "x-own": SECRET, "cookie": f"a={SECRET}", "user-agent": SECRET, "referer": SECRET, "x-request-id": SECRET,
    "traceparent": TRACE, "tracestate": f"a={SECRET}", "baggage": f"a={SECRET}",
}  # fmt: skip


@pytest.fixture
def collector() -> canary.Collector:
    return canary.Collector()


@pytest.fixture
def up(tmp_path: Path, collector: canary.Collector) -> Iterator[UpProcess]:
    with (
        running(collector, lifespan="off") as url,
        UpProcess(
            tmp_path / "local",
            GATEWAY_LOG_LEVEL="debug",
            INFERENCE_LOG_LEVEL="debug",
            CACHE_LOG_LEVEL="debug",
            JOBS_LOG_LEVEL="debug",
            WORKER_LOG_LEVEL="debug",
            GATEWAY_FAILED_LOGINS_PER_MINUTE="1000000",
            GATEWAY_CACHE_TIMEOUT_S="0.5",  # a busy machine's hit is a hit
            GATEWAY_HOT_ENTRIES_LIFE_S="0",  # so that a spoiled entry is read
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
        ) as up,
    ):
        yield up


class Callers:
    """One who sends the secret wherever it can be sent, and one who never does; what either was answered."""

    def __init__(self, up: UpProcess, http: httpx2.Client) -> None:
        self.up, self.http = up, http
        self.admin_key = up.client["SPILLWAY_ADMIN_KEY"]
        named = {"tenant": TENANT, "name": LABEL}
        self.key = up.make_key(**named, capture_content=True)  # to what this deployment does not do
        self.limited = up.make_key(**named, limits={"requests_per_minute": 1}, trusted_trace=True)
        self.expired = up.make_key(**named, expires_at=1)
        self.unmet = [up.make_key(**named) for _ in range(2)]
        """Keys that nobody has shown yet: each is looked up when it is."""
        self.quiet = up.make_key(tenant="quiet")
        self.answers: list[httpx2.Response] = []
        self.overheard: list[httpx2.Response] = []

    def spend(self, prompt: str = SECRET) -> int:
        """Ask with the key that has a limit; its traces are trusted, so that what it says of them goes on."""
        return self.ask(chat(prompt), key=self.limited, tracestate="a=1").status_code

    @property
    def keys(self) -> list[str]:
        return [self.key, self.limited, self.expired, *self.unmet, self.quiet]

    def ask(
        self, body: Any, path: str = CHAT, *, key: str = "", method: str = "POST", **headers: str
    ) -> httpx2.Response:
        """A stream that breaks is an answer too."""
        sent = HEADERS | bearer(key or self.key) | {name.replace("_", "-"): value for name, value in headers.items()}
        answer: httpx2.Response
        with self.http.stream(method, f"{path}?key={SECRET}", json=body, headers=sent) as answer:
            try:
                answer.read()
            except (httpx2.RemoteProtocolError, httpx2.ReadError):
                answer._content = b""
        self.answers.append(answer)
        return answer

    def both(self, prompt: str, **headers: str) -> set[int]:
        """Ask it streamed and not; the statuses."""
        return {self.ask(chat(prompt, stream=stream), **headers).status_code for stream in (False, True)}

    def is_hit(self, prompt: str) -> bool:
        return self.ask(chat(prompt)).headers.get("x-cache") == "hit"

    def submit(self, prompt: str) -> httpx2.Response:
        return self.ask({"endpoint": CHAT, "body": chat(prompt)}, JOBS)

    def overhear(self) -> None:
        """What somebody else is answered meanwhile, errors above all."""
        for method, path, body in (
            ("POST", CHAT, chat("a question")),
            ("POST", CHAT, chat("a question", temperature="much")),
            ("GET", "/v1/jobs", None),
            ("POST", JOBS, {"endpoint": CHAT, "body": chat("a question")}),
            ("GET", f"{JOBS}/job_{'0' * 32}", None),
            ("GET", "/v1/models", None),
        ):
            self.overheard.append(self.http.request(method, path, json=body, headers=bearer(self.quiet)))


def chat(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "sim-small", "messages": [{"role": "user", "content": prompt}], **fields}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# -- the ways ----------------------------------------------------------------------------------------------------------


def everywhere(callers: Callers) -> None:
    """Every route, with the secret in the query, in headers, in the body, in the path and as the key."""
    body = {"prompt": SECRET, "name": SECRET, "input": SECRET, "grace_s": SECRET}
    for path, item in PATHS.items():
        url = re.sub(r"\{[a-z_]+\}", "0" * 16, path)
        for method in item:
            sent = body if method in ("post", "put", "patch") else None
            for key in (callers.key, callers.admin_key, SECRET, f"sw_live_{SECRET}", callers.key[:-1] + SECRET):
                callers.ask(sent, url, method=method, key=key)
        if "{" in path:
            callers.ask(None, re.sub(r"\{[a-z_]+\}", PATH, path), method="GET", key=callers.admin_key)
    callers.ask(body, f"/{PATH}")
    callers.ask(None, CHAT, traceparent=SECRET)


def bodies(callers: Callers) -> None:
    """What a body may be refused for, and all that is passed on."""
    tool = {"type": "function", "function": {"name": "look_up", "description": SECRET, "parameters": {SECRET: SECRET}}}
    called = {"id": SECRET, "type": "function", "function": {"name": "look_up", "arguments": f'{{"a": "{SECRET}"}}'}}
    turn = [{"role": "assistant", "tool_calls": [called]}, {"role": "tool", "tool_call_id": SECRET, "content": SECRET}]
    for body in (
        chat(SECRET, temperature=SECRET), chat(SECRET, user=SECRET, metadata={SECRET: SECRET}),
        chat(SECRET, stop=[SECRET]),
        chat([{"type": "image_url", "image_url": {"url": f"http://127.0.0.1/{SECRET}"}}]),
        chat(SECRET, tools=[tool]), chat(SECRET) | {"messages": [{"role": "user", "content": SECRET}, *turn]},
        {"model": "sim-small", "messages": [{"role": SECRET, "content": SECRET}], "tools": [{"function": SECRET}]},
        chat(SECRET) | {"model": MODEL}, chat(SECRET, stream=True) | {"model": MODEL},
    ):  # fmt: skip
        callers.ask(body)
    callers.ask({"prompt": SECRET, "system": SECRET}, "/generate")
    callers.ask({"model": "sim-embed", "input": SECRET}, "/v1/embeddings")
    for content, kind in ((f'{{"{SECRET}": {SECRET}', "application/json"), (SECRET, SECRET)):
        headers = bearer(callers.key) | {"content-type": kind}
        callers.answers.append(callers.http.post("/generate", content=content, headers=headers))


def upstream(callers: Callers) -> None:
    """The main faults of an upstream, streamed and not."""
    for fault in UPSTREAM_FAULTS:
        prompt = f"{SECRET} [[sim {fault}]]" if fault else SECRET
        callers.both(prompt, **(IMPATIENT if "stall" in fault else {}))
    echoes = [callers.ask(chat(f"[[sim {ECHOED}]]", stream=stream)) for stream in (False, True)]
    assert all(SECRET in echo.text for echo in echoes), "the upstream repeats what it was sent"
    del callers.answers[-len(echoes) :]


def other_ways(callers: Callers) -> None:
    """A hit, a bypass, followers, a client that leaves, refusals, retries by key, administration, and jobs."""
    wait_until(lambda: callers.is_hit(f"{SECRET} again"), 20, "a hit")
    callers.ask(chat(f"{SECRET} again"), cache_control="no-store")
    with ThreadPoolExecutor(4) as pool:
        slow = chat(f"{SECRET} [[sim ttft_ms=1500]]")
        list(pool.map(lambda stream: callers.ask(slow | {"stream": stream}), (False, False, False, True)))
    with contextlib.suppress(httpx2.ReadTimeout):
        body = chat(f"{SECRET} [[sim ttft_ms=9000]]")
        callers.http.post(CHAT, json=body, headers=bearer(callers.key), timeout=1)
    assert [callers.spend(), callers.spend()][-1] == 429
    assert callers.ask(chat(SECRET), key=callers.expired).status_code == 401
    for _ in range(2):
        callers.ask(chat(f"{SECRET} once"), idempotency_key=SECRET)
    assert callers.ask(chat(f"{SECRET} twice"), idempotency_key=SECRET).status_code == 422
    for body in ({"tenant": "acme", "name": LABEL}, {"tenant": SECRET + " ", "name": SECRET}):
        callers.ask(body, "/admin/keys", key=callers.admin_key)
    callers.answers.pop(-2)  # it shows a key to whom it was made for
    callers.ask({"limits": {"requests_per_minute": 9}}, f"/admin/tenants/{TENANT}", method="PUT", key=callers.admin_key)
    callers.ask({"limits": {}}, f"/admin/tenants/{TENANT}", method="PUT", key=callers.admin_key)
    for fault in ("", "[[sim status=400]]", "[[sim status=500 times=1]]", f"[[sim {ECHOED}]]"):
        job = callers.submit(f"{SECRET} {fault}")
        shown = callers.http.get(f"{job.headers['location']}?wait=20", headers=bearer(callers.key))
        shown.raise_for_status()  # it may show its own error


# -- the faults --------------------------------------------------------------------------------------------------------


def stores_away(callers: Callers) -> None:
    """Each store is silent, and then dies (it is started again at once)."""
    for (name, url), unmet in zip(canary.stores(callers.up).items(), [callers.unmet[0], "", ""], strict=True):
        with Redis.from_url(url) as store:
            pid = int(store.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            use_all(callers, name, unmet)
        finally:
            os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
        use_all(callers, f"{name} again", "")
        wait_until(functools.partial(answers_again, url), 10, f"{name} is back")


def use_all(callers: Callers, prompt: str, unmet: str) -> None:
    """What needs a store, one way or another."""
    callers.both(f"{SECRET} {prompt}")
    callers.ask(chat(f"{SECRET} {prompt} once"), idempotency_key=f"{SECRET}-{prompt.replace(' ', '-')}")
    callers.spend(f"{SECRET} {prompt}")
    callers.submit(f"{SECRET} {prompt}")
    if unmet:
        assert callers.ask(chat(SECRET), key=unmet).status_code == 503
        callers.ask({"tenant": TENANT, "name": LABEL}, "/admin/keys", key=callers.admin_key)
    callers.overhear()


def answers_again(url: str) -> bool:
    with Redis.from_url(url) as store, contextlib.suppress(Exception):  # refused, or still loading
        return bool(store.ping())
    return False


def spoiled(callers: Callers) -> None:
    """What was sealed is damaged in its store: it is no answer, and nobody is told what it was."""
    prompts = [f"{SECRET} spoiled {number}" for number in range(2)]
    for prompt in prompts:
        wait_until(functools.partial(callers.is_hit, prompt), 20, "a hit")
    callers.ask(chat(f"{SECRET} kept"), idempotency_key=f"{SECRET}-spoiled")
    stores = canary.stores(callers.up)
    with Redis.from_url(stores["cache"]) as store:
        for name in store.scan_iter("v1:entry:*"):
            entry = store.get(name)
            store.set(name, entry[:30] + bytes(byte ^ 1 for byte in entry[30:40]) + entry[40:], keepttl=True)
    with Redis.from_url(stores["state"]) as store:
        for name in store.scan_iter("v1:{idempotency}:record:*"):
            for field, value in store.hgetall(name).items():
                if len(value) > 100:
                    store.hset(name, field, value[:50] + b"spoiled" + value[57:])
    assert [callers.ask(chat(prompt)).headers["x-cache"] for prompt in prompts] == ["miss"] * 2
    assert callers.ask(chat(f"{SECRET} kept"), idempotency_key=f"{SECRET}-spoiled").status_code == 409
    alarms = {"cache_entry_did_not_open", "idempotency_answer_did_not_open"}
    wait_until(lambda: alarms <= {line["message"] for line in callers.up.log_lines("gateway")}, 10, "alarms")


def services_die(callers: Callers) -> None:
    """Inference in the middle of a stream, a worker in the middle of a job, the queue's door."""
    up = callers.up
    job = callers.submit(f"{SECRET} [[sim ttft_ms=5000]]").headers["location"]

    def is_running() -> bool:
        return bool(callers.http.get(job, headers=bearer(callers.key)).json().get("state") == "running")

    wait_until(is_running, 10, "the job runs")
    with ThreadPoolExecutor(2) as pool:
        streams = [pool.submit(callers.both, f"{SECRET} dies [[sim tokens=100 itl_ms=50]]")]
        wait_until(lambda: in_flight(up) > 0, 10, "a call is under way")
        for name in ("inference", "jobs", "jobs.worker"):
            os.kill(up.service_pid(name), signal.SIGKILL)
        for _ in range(2):
            callers.both(f"{SECRET} nobody [[sim tokens=3]]")
            callers.submit(f"{SECRET} nobody")
            callers.overhear()
        for stream in streams:
            stream.result(30)
    wait_until(lambda: callers.ask(chat(SECRET), cache_control="no-store").status_code == 200, 30, "inference is back")
    wait_until(lambda: callers.submit(f"{SECRET} later").status_code == 202, 30, "jobs are accepted again")


def in_flight(up: UpProcess) -> int:
    """Calls that the upstream is answering."""
    url = up.client["SPILLWAY_SIMULATOR_URL"]
    attempts = httpx2.get(f"{url}/_sim/requests", trust_env=False).json()["requests"]
    return sum(not (one["finished"] or one["cancelled"]) for one in attempts)


def beside(callers: Callers) -> str:
    """What a gateway logs and measures whose cache is away and whose upstream tier never was there."""
    away = {f"GATEWAY_{name}_URL": "http://127.0.0.1:9" for name in ("CACHE", "INFERENCE", "JOBS")}
    with (
        replica(callers.up, "gateway", GATEWAY_LOG_LEVEL="debug", **away) as one,
        httpx2.Client(base_url=one.url, timeout=30, trust_env=False) as http,
    ):
        alone = Callers.__new__(Callers)
        alone.__dict__.update(callers.__dict__, http=http, answers=[])
        assert alone.both(f"{SECRET} without") == {503}
        assert alone.submit(f"{SECRET} without").status_code == 503
        callers.answers += alone.answers
        page = httpx2.get(f"{one.metrics_url}/metrics", trust_env=False).raise_for_status().text
    return page + one.log.read_text()


def stopped_in_mid_stream(callers: Callers) -> None:
    """Ctrl-C with streams open, of which one has a key that makes it run to its end."""
    with ThreadPoolExecutor(2) as pool:
        prompt = f"{SECRET} to the end [[sim tokens=200 itl_ms=50]]"
        open_streams = [
            pool.submit(callers.ask, chat(f"{prompt} {number}", stream=True), **headers)
            for number, headers in enumerate(({}, {"idempotency_key": f"{SECRET}-end"}))
        ]
        wait_until(lambda: in_flight(callers.up) >= len(open_streams), 10, "they stream")
        callers.up.interrupt()
        for stream in open_streams:
            with contextlib.suppress(httpx2.HTTPError):
                stream.result(30)
    wait_until(callers.up.is_gone, 10, "everything stopped")


# -- the places --------------------------------------------------------------------------------------------------------


def test_a_canary_is_in_no_log_span_metric_name_or_answer_to_others_and_what_is_kept_is_sealed(
    up: UpProcess, collector: canary.Collector
) -> None:
    ways: tuple[Callable[[Callers], None], ...] = (
        everywhere, bodies, upstream, other_ways, spoiled, stores_away, services_die,
    )  # fmt: skip
    with httpx2.Client(base_url=up.client["SPILLWAY_URL"], timeout=30, trust_env=False) as http:
        callers = Callers(up, http)
        for way in ways:
            way(callers)
        alone = beside(callers)
        assert {"hit", "miss", "coalesced", "bypass"} <= {answer.headers.get("x-cache") for answer in callers.answers}
        found = {answer.status_code for answer in callers.answers}
        assert {200, 202, 400, 401, 403, 404, 422, 429, 502, 503, 504} <= found
        assert {200, 202, 400, 404, 503} <= {answer.status_code for answer in callers.overheard}
        pages = canary.pages(up)
        names, values = canary.kept(up)
        secrets = [SECRET, *callers.keys, *keys_of(up), *completions(callers.answers)]
        up.pids()
        stopped_in_mid_stream(callers)
    log = without_banner(up.log, up.client["OPENAI_API_KEY"])
    assert log.count('"message":"request"') >= len(callers.answers), "the log is the services' own"
    errors = [answer.text for answer in callers.answers if answer.is_error]
    errors += [str(answer.headers) for answer in callers.answers]
    texts = {
        "log": log,
        "spans": collector.spans(),
        "metrics": collector.metrics(),
        "pages": pages,
        "a gateway alone": alone,
        "somebody else's answers": "\n".join(f"{answer.headers} {answer.text}" for answer in callers.overheard),
    }
    assert all(name in texts["log"] for name in (PATH, MODEL, TENANT)), "what is to be found is found"
    assert all(name in texts["spans"] for name in (PATH, TENANT))
    assert LABEL in values
    found_in = [leak for place, text in texts.items() for leak in canary.leaks(place, text, secrets)]
    kept = {"errors": "\n".join(errors), "names": names, "values": values, "files": canary.files(up)}
    found_in += [leak for place, text in kept.items() for leak in canary.leaks(place, text, secrets, names=())]
    found_in += canary.leaks("names", names, (LABEL, PATH, MODEL), names=())
    assert not found_in, "\n".join(found_in)


def keys_of(up: UpProcess) -> list[str]:
    """What the stack itself keeps secret."""
    secrets = env_file.read(up.local / "secrets.env").items()
    own = [value for name, value in secrets if "SECRET" in name or "PEPPER" in name]
    return [up.client["OPENAI_API_KEY"], up.client["SPILLWAY_ADMIN_KEY"], *own]


def completions(answers: list[httpx2.Response]) -> list[str]:
    """What the upstream answered: it is nobody else's either."""
    found = {
        answer.json()["choices"][0]["message"]["content"][:40]
        for answer in answers
        if answer.status_code == 200 and b'"chat.completion"' in answer.content
    }
    assert found
    return sorted(found)


def without_banner(log: str, key: str) -> str:
    """The development key is shown to its owner at the start, on purpose: what `up` itself says is no service's log."""
    return "\n".join(line for line in log.splitlines() if not (key in line and '"message"' not in line))
