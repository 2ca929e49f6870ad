"""A secret that callers send, in every place where one can be sent, on every way and with every fault, is found nowhere
afterwards.

Logs are the processes' own output, spans what the receiver got over OTLP, metrics what each service's page says, keys
what the three stores hold.
"""

from __future__ import annotations

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from redis import Redis

from devstack import env_file
from devstack.stores import STORES
from e2e.up_process import UpProcess, replica, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

CANARY = "canary-7b1f3e9d"
PATHS = json.loads((Path(__file__).parents[2] / "docs/openapi/gateway.json").read_text())["paths"]
FAULTS = (
    "", "status=400", "status=401", "status=429", "status=500", "status=503", "how=fin", "how=rst cut_after=2",
    "how=html cut_after=1", "how=end cut_after=2", "how=error cut_after=2", "how=garbage cut_after=2", "nonsense",
    "status=503 times=2", "tokens=50 itl_ms=1", "how=stall",
)  # fmt: skip
ECHOED = f"{CANARY}=1"
"""A fault whose error repeats it: a caller may see what it sent, and nobody else."""
IMPATIENT = {"x-request-timeout-ms": "1500"}
MEASURED = ("gateway", "inference", "cache", "jobs", "worker")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[UpProcess]:
    with UpProcess(
        tmp_path / "local",
        GATEWAY_FAILED_LOGINS_PER_MINUTE="1000000",
        GATEWAY_LOG_LEVEL="debug",
        INFERENCE_LOG_LEVEL="debug",
        CACHE_LOG_LEVEL="debug",
    ) as up:
        yield up


def test_a_canary_is_in_no_log_span_error_or_name_in_a_store(up: UpProcess) -> None:
    known = up.client
    with httpx2.Client(base_url=known["SPILLWAY_URL"], timeout=30, trust_env=False) as http:
        consenting = up.make_key(capture_content=True)  # to what this deployment does not do
        answers = [
            *everywhere(http, known["OPENAI_API_KEY"], known["SPILLWAY_ADMIN_KEY"]),
            *model_calls(http, consenting),
            *other_ways(http, up, consenting),
        ]
        echoes = [ask(http, bearer(consenting), chat(f"[[sim {ECHOED}]]", stream=stream)) for stream in (False, True)]
        assert all(CANARY in echo.text for echo in echoes), "the upstream repeats what it was sent"
        without_cache = [*beside(up, consenting)]
    said = completions(answers)
    assert {"hit", "miss", "coalesced", "bypass"} <= {answer.headers.get("x-cache") for answer in answers}
    assert {200, 202, 400, 401, 429, 502, 503, 504} <= {answer.status_code for answer in answers}
    spans = all_spans(known["SPILLWAY_TRACES_URL"])
    names, trail = stored(up)
    pages = metrics_pages(up)
    up.interrupt()
    wait_until(up.is_gone, 10, "everything stopped")
    errors = [answer.text for answer in answers if answer.is_error] + [str(answer.headers) for answer in answers]
    assert up.log.count('"message":"request"') >= len(answers), "the log is the services' own"
    assert len(spans) > len(answers) / 2
    assert names
    secrets = [CANARY, consenting, known["OPENAI_API_KEY"], known["SPILLWAY_ADMIN_KEY"], *said]
    secrets += [
        value for name, value in env_file.read(up.local / "secrets.env").items() if "SECRET" in name or "PEPPER" in name
    ]
    for where, text in {
        "log": up.log,
        "spans": "\n".join(spans),
        "errors": "\n".join(errors),
        "names": "\n".join(names),
        "trail": trail,
        "metrics": "\n".join(pages),
        "log and metrics of a gateway without its cache": "\n".join(without_cache),
    }.items():
        shown = without_banner(text, known["OPENAI_API_KEY"]) if where == "log" else text
        for secret in secrets:
            assert secret not in shown, (where, secret[:12], around(shown, secret))


def everywhere(http: httpx2.Client, key: str, admin_key: str) -> Iterator[httpx2.Response]:
    """Every route, with the canary in the query, in headers, in the body, and as the key."""
    for path, item in PATHS.items():
        for method in item:
            url = re.sub(r"\{[a-z_]+\}", "0" * 16, path)
            for bearer in (key, admin_key, CANARY, f"sw_live_{CANARY}", key[:-1] + CANARY):
                headers = {"authorization": f"Bearer {bearer}", "x-own": CANARY, "cookie": f"a={CANARY}"}
                headers |= {"user-agent": CANARY, "referer": CANARY, "x-request-id": CANARY, "baggage": f"a={CANARY}"}
                body = (
                    {"prompt": CANARY, "name": CANARY, "input": CANARY, "grace_s": CANARY}
                    if method in ("post", "put", "patch")
                    else None
                )
                yield http.request(method, f"{url}?key={CANARY}", headers=headers, json=body)


def model_calls(http: httpx2.Client, key: str) -> Iterator[httpx2.Response]:
    """The main faults of an upstream, streamed and not, and what a body may be refused for."""
    headers = bearer(key)
    for fault in FAULTS:
        prompt = f"{CANARY} [[sim {fault}]]" if fault else CANARY
        patience = IMPATIENT if "stall" in fault else {}
        for stream in (False, True):
            yield ask(http, headers | patience, chat(prompt, stream=stream))
    for body in (
        chat(CANARY, temperature=CANARY), chat(CANARY, user=CANARY, metadata={CANARY: CANARY}),
        chat(CANARY, stop=[CANARY]),
        chat([{"type": "image_url", "image_url": {"url": f"http://127.0.0.1/{CANARY}"}}]),
        {"model": "sim-small", "messages": [{"role": CANARY, "content": CANARY}], "tools": [{"function": CANARY}]},
    ):  # fmt: skip
        yield ask(http, headers, body)
    yield http.post("/generate", json={"prompt": CANARY, "system": CANARY}, headers=headers)
    yield http.post("/v1/embeddings", json={"model": "sim-embed", "input": CANARY}, headers=headers)
    yield http.post(
        "/generate", content=f'{{"{CANARY}": {CANARY}', headers=headers | {"content-type": "application/json"}
    )
    yield http.post("/generate", content=CANARY, headers=headers | {"content-type": CANARY})


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def other_ways(http: httpx2.Client, up: UpProcess, key: str) -> Iterator[httpx2.Response]:
    """A hit, a bypass, followers, a client that leaves, a refusal by a limit, retries by key, and jobs."""
    headers = bearer(key)
    eventual: list[httpx2.Response] = []

    def is_hit() -> bool:
        eventual.append(ask(http, headers, chat(f"{CANARY} again")))
        return eventual[-1].headers.get("x-cache") == "hit"

    wait_until(is_hit, 20, "a hit")
    yield from eventual
    yield ask(http, headers | {"cache-control": "no-store"}, chat(f"{CANARY} again"))
    with ThreadPoolExecutor(4) as pool:
        slow = chat(f"{CANARY} [[sim ttft_ms=1500]]")
        yield from pool.map(lambda stream: ask(http, headers, slow | {"stream": stream}), (False, False, False, True))
    with contextlib.suppress(httpx2.ReadTimeout):
        http.post("/v1/chat/completions", json=chat(f"{CANARY} [[sim ttft_ms=9000]]"), headers=headers, timeout=1)
    limited = bearer(up.make_key(limits={"requests_per_minute": 1}, capture_content=True))
    yield from (ask(http, limited, chat(f"{CANARY} {number}")) for number in range(2))
    keyed = headers | {"idempotency-key": CANARY}
    yield from (ask(http, keyed, chat(f"{CANARY} once")) for _ in range(2))
    for fault in ("", "[[sim status=400]]", "[[sim status=500 times=1]]", f"[[sim {ECHOED}]]"):
        body = chat(f"{CANARY} {fault}")
        job = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body}, headers=headers)
        yield job
        http.get(f"{job.headers['location']}?wait=20", headers=headers).raise_for_status()  # it may show its own error


def beside(up: UpProcess, key: str) -> Iterator[str]:
    """What a gateway whose cache is away logs and measures."""
    with (
        replica(up, "gateway", GATEWAY_CACHE_URL="http://127.0.0.1:9", GATEWAY_LOG_LEVEL="debug") as one,
        httpx2.Client(base_url=one.url, timeout=30, trust_env=False) as http,
    ):
        for stream in (False, True):
            assert ask(http, bearer(key), chat(f"{CANARY} without", stream=stream)).status_code == 200
        yield httpx2.get(f"{one.metrics_url}/metrics", trust_env=False).raise_for_status().text
    yield one.log.read_text()


def metrics_pages(up: UpProcess) -> list[str]:
    """What each service's page says."""
    variables = env_file.read(up.local / "stack.env")
    ports = [variables[f"{name.upper()}_METRICS_PORT"] for name in MEASURED]
    pages = [httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text for port in ports]
    assert all("http_server_" in page or "spillway_" in page for page in pages)
    return pages


def chat(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "sim-small", "messages": [{"role": "user", "content": prompt}], **fields}


def ask(http: httpx2.Client, headers: dict[str, str], body: dict[str, Any]) -> httpx2.Response:
    answer: httpx2.Response
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        try:
            answer.read()
        except (httpx2.RemoteProtocolError, httpx2.ReadError):  # a broken stream is as good here
            answer._content = b""
    return answer


def completions(answers: list[httpx2.Response]) -> list[str]:
    """What the upstream answered: it is nobody else's either."""
    found = [
        answer.json()["choices"][0]["message"]["content"][:40]
        for answer in answers
        if answer.status_code == 200 and b'"chat.completion"' in answer.content
    ]
    assert found
    return found


def all_spans(url: str) -> list[str]:
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as http:

        def count() -> int:
            return len(http.get("/traces").json())

        wait_until(lambda: count() > 20, 10, "spans")
        return [http.get(f"/traces/{trace['trace_id']}").text for trace in http.get("/traces").json()]


def stored(up: UpProcess) -> tuple[list[str], str]:
    """Every name in every store, fields of hashes and members of sets included, and the audit trail as it is."""
    variables = env_file.read(up.local / "stack.env")
    names: list[str] = []
    trail = ""
    for store in STORES:
        with Redis.from_url(variables[store.variable]) as client:
            for name in client.scan_iter(count=1_000):
                kind = client.type(name)
                names.append(name.decode("latin-1"))
                if kind == b"hash":
                    names += [field.decode("latin-1") for field in client.hkeys(name)]
                elif kind == b"zset":
                    names += [member.decode("latin-1") for member in client.zrange(name, 0, -1)]
                elif kind == b"set":
                    names += [member.decode("latin-1") for member in client.smembers(name)]
                elif kind == b"stream" and b"audit" in name:
                    trail += str(client.xrange(name))
    return names, trail


def without_banner(log: str, key: str) -> str:
    """The development key is shown to its owner at the start, on purpose: what `up` itself says is no service's log."""
    return "\n".join(line for line in log.splitlines() if not (key in line and '"message"' not in line))


def around(text: str, secret: str) -> str:
    place = text.find(secret)
    return text[max(place - 200, 0) : place + 60] if place >= 0 else ""
