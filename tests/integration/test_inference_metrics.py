"""What inference's instruments say, against what its callers were told and what its upstreams saw."""

from __future__ import annotations

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from pydantic import SecretStr

import inference.app
from common.identity import HopIdentity
from inference.settings import Settings
from support.catalogue import model, models_yaml, target
from support.inference_service import Service, inference_service
from support.instruments import Instruments
from support.load import SIGNER
from support.platform import BOUND_S, SECRETS, eventually
from support.ports import free_port
from support.server import running
from support.upstreams import Switched, switched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"
PRICE = "{input_usd: 1000, output_usd: 2000, as_of: 2026-11-01}"
HOSTILE = [
    "sk-live-0123456789abcdef", "gpt-4o\nfake_metric 1", '"} 1\nup{job="x', "a" * 5_000, "\u202egpt", "' OR 1=1 --", "",
    *(f"made-up-{number}" for number in range(50)),
]  # fmt: skip


def asks(prompt: str = "Hello", name: str = "sim-small", **fields: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": prompt}], **fields}


def of(name: str, upstream: str = "", **more: str) -> dict[str, str]:
    return {"gen_ai.request.model": name} | ({"spillway.target": upstream} if upstream else {}) | more


def becomes(service: Service, name: str, attributes: dict[str, str], wanted: float) -> None:
    """An answer's slot is given back after the answer: what is counted then comes a moment later."""
    eventually(lambda: service.instruments.value(name, attributes) == wanted)


@pytest.fixture
def one() -> Iterator[Switched]:
    with switched() as upstream:
        yield upstream


@pytest.fixture
def other() -> Iterator[Switched]:
    with switched() as upstream:
        yield upstream


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:
        yield lambda text, **settings: stack.enter_context(
            inference_service(tmp_path / "models.yaml", text, **settings)
        )


def at(upstream: Switched, name: str, **fields: Any) -> str:
    return target(name, base_url=f"{upstream.url}/v1", **fields)


def test_answers_are_measured_and_their_tokens_and_cost_are_those_that_the_caller_was_told(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a", price=PRICE))))
    told = [json.loads(service.post(CHAT, asks(f"No. {number}")).headers["x-spillway-usage"]) for number in range(3)]
    stream = service.post(CHAT, asks("streamed", stream=True))
    assert stream.status_code == 200
    told.append(json.loads(stream.text.split("x-spillway-usage ")[1].split("\n")[0]))
    becomes(service, "spillway.attempts", of("sim-small", "a", outcome="ok"), 4)
    instruments = service.instruments
    (duration,) = instruments.points(DURATION)
    assert duration.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim-small",
        "gen_ai.response.model": "sim-small",
        "server.address": "127.0.0.1",
    }
    assert duration.count == 4
    assert duration.explicit_bounds == tuple(0.01 * 2**n for n in range(14))
    assert instruments.value(FIRST_CHUNK) == 1
    for kind in ("input", "output"):
        (point,) = instruments.points(TOKENS, {"gen_ai.token.type": kind})
        assert (point.count, point.sum) == (4, sum(usage[f"{kind}_tokens"] for usage in told))
        assert point.explicit_bounds == tuple(4.0**n for n in range(14))
    assert instruments.value("spillway.cost", of("sim-small", "a")) == pytest.approx(
        sum(usage["cost_usd"] for usage in told)
    )
    assert instruments.value("spillway.target.in_flight") == 0
    assert instruments.value("spillway.target.limit", of("sim-small", "a")) == 256


def test_a_retry_is_counted_at_the_target_that_failed_and_its_attempt_by_the_reason(
    one: Switched, other: Switched, serving: Callable[..., Service]
) -> None:
    one.status = 503
    # All that is asked goes to the first, the second having no weight, until the first has been tried.
    service = serving(models_yaml(model(at(one, "a"), at(other, "b", weight=0))))
    answers = [service.post(CHAT, asks()) for _ in range(3)]
    assert [answer.headers["x-upstream-attempts"] for answer in answers] == ["2"] * 3
    becomes(service, "spillway.attempts", of("sim-small", "b", outcome="ok"), 3)
    instruments = service.instruments
    assert instruments.value("spillway.attempts", of("sim-small", "a", outcome="status_503")) == one.asked == 3
    assert instruments.value("spillway.attempts") == one.asked + other.asked
    assert instruments.by("spillway.retries", "reason") == {"status_503": 3}
    assert instruments.by("spillway.retries", "spillway.target") == {"a": 3}
    assert instruments.points(DURATION, {"error.type": "status_503"}) == []
    assert instruments.value(DURATION) == 3


def test_a_fallback_is_counted_by_both_models_and_asked_by_its_own_name(
    one: Switched, other: Switched, serving: Callable[..., Service]
) -> None:
    one.status = 503
    service = serving(
        models_yaml(model(at(one, "a"), name="grand", fallback="[sim-small]"), model(at(other, "b"), name="sim-small"))
    )
    assert [point.value for point in service.instruments.points("spillway.fallbacks")] == [0]  # it can be looked for
    answer = service.post(CHAT, asks(name="grand"))
    assert (answer.status_code, answer.headers["x-spillway-model"]) == (200, "sim-small")
    assert answer.json()["model"] == "sim-small"  # what the upstream was asked for
    becomes(service, "spillway.attempts", of("sim-small", "b", outcome="ok"), 1)
    instruments = service.instruments
    assert instruments.value("spillway.fallbacks", of("grand", **{"spillway.fallback.model": "sim-small"})) == 1
    assert instruments.value(DURATION, of("grand", **{"gen_ai.response.model": "sim-small"})) == 1
    assert instruments.value("spillway.attempts", of("grand", "a", outcome="status_503")) == 1


def test_an_operation_that_fails_is_measured_with_the_reason(one: Switched, serving: Callable[..., Service]) -> None:
    service = serving(models_yaml(model(at(one, "a"))))
    one.status = 400
    assert service.post(CHAT, asks()).status_code == 400
    one.status = None
    assert service.post(CHAT, asks("[[sim how=garbage]]", stream=True)).status_code == 502
    with pytest.raises(httpx2.RemoteProtocolError):  # cut in its middle
        service.post(CHAT, asks("[[sim how=end cut_after=1]]", stream=True))
    assert service.post(EMBEDDINGS, {"model": "sim-small", "input": "[[sim status=422]]"}).status_code == 422
    eventually(lambda: service.instruments.value(DURATION) == 4)
    assert service.instruments.by(DURATION, "error.type") == {
        "status_400": 1,
        "malformed": 1,
        "stream_interrupted": 1,
        "status_422": 1,
    }
    assert service.instruments.by(DURATION, "gen_ai.operation.name") == {"chat": 3, "embeddings": 1}
    becomes(service, "spillway.attempts", of("sim-small", "a", outcome="stream_interrupted"), 1)


def test_an_open_breaker_is_seen_with_the_target_that_it_ejects(serving: Callable[..., Service]) -> None:
    service = serving(models_yaml(model(target("away", base_url=f"http://127.0.0.1:{free_port()}/v1"))))
    state = of("sim-small", "away")
    assert service.instruments.value("spillway.breaker.state", state) == 0
    while service.instruments.value("spillway.breaker.opened", state) == 0:
        assert service.post(CHAT, asks(), **{"x-spillway-max-attempts": "1"}).status_code == 503
    assert service.instruments.value("spillway.breaker.state", state) == 2
    assert service.instruments.value("spillway.attempts", of("sim-small", "away", outcome="connect")) == 5


def test_a_canary_that_is_rolled_back_has_no_weight_any_more(
    one: Switched, other: Switched, serving: Callable[..., Service]
) -> None:
    canary = "{target: new, percent: 100, min_requests: 5}"
    service = serving(models_yaml(model(at(one, "old"), at(other, "new"), canary=canary)))
    attributes = of("sim-small", "new")
    assert service.instruments.value("spillway.canary.weight", attributes) == 1
    assert service.instruments.value("spillway.canary.rollbacks", attributes) == 0
    other.status = 500
    assert [service.post(CHAT, asks()).status_code for _ in range(5)] == [502] * 5
    assert service.instruments.value("spillway.canary.weight", attributes) == 0
    assert service.instruments.value("spillway.canary.rollbacks", attributes) == 1
    assert service.post(CHAT, asks()).headers["x-spillway-target"] == "old"


def test_calls_that_a_throttle_refuses_are_those_whose_callers_were_told_so(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a"))), throttle_ratio=1.1)
    one.status = 503
    codes = [service.post(CHAT, asks(), **{"x-spillway-max-attempts": "1"}).json()["error"]["code"] for _ in range(60)]
    throttled = codes.count("upstream_throttled")
    assert throttled > 0
    refusals = of("sim-small", "a", reason="throttle")
    assert service.instruments.value("spillway.upstream.refusals", refusals) == throttled
    assert service.instruments.value(DURATION, {"error.type": "upstream_throttled"}) == throttled
    assert service.instruments.value(DURATION, {"error.type": "status_503"}) == one.asked == 60 - throttled


def test_a_retry_without_budget_and_a_call_without_a_slot_are_refusals(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a", max_concurrency=1))), retry_budget=10)
    one.status = 503
    assert service.post(CHAT, asks()).headers["x-upstream-attempts"] == "2"
    one.status = None
    with ThreadPoolExecutor(1) as clients:
        seen = one.asked
        held = clients.submit(service.post, CHAT, asks("[[sim ttft_ms=1500]]"))
        eventually(lambda: one.asked > seen)
        assert service.post(CHAT, asks()).json()["error"]["code"] == "upstream_saturated"
        assert held.result().status_code == 200
    assert service.instruments.by("spillway.upstream.refusals", "reason") == {"retry_budget": 1, "concurrency": 1}


def test_embeddings_that_were_joined_are_one_operation_and_each_ones_tokens(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a", batching="{max_items: 4, max_wait_ms: 1000}"))))

    one.gate = gate = threading.Event()
    headers = {"authorization": SIGNER.authorization(HopIdentity("alice", "k"))}
    with (
        httpx2.Client(base_url=service.url, headers=headers, timeout=BOUND_S, trust_env=False) as client,
        ThreadPoolExecutor(5) as clients,
    ):

        def embed(text: str) -> dict[str, int]:
            usage: dict[str, int] = client.post(EMBEDDINGS, json={"model": "sim-small", "input": text}).json()["usage"]
            return usage

        alone = clients.submit(embed, "first")
        eventually(lambda: one.asked == 1)
        one.gate = None
        joined = list(clients.map(embed, [f"number {number}" for number in range(4)]))
        gate.set()
        usages = [alone.result(), *joined]
    assert one.asked == 2
    instruments = service.instruments
    assert instruments.value(DURATION, {"gen_ai.operation.name": "embeddings"}) == one.asked
    (tokens,) = instruments.points(TOKENS)
    assert (tokens.attributes["gen_ai.token.type"], tokens.count) == ("input", 5)
    assert tokens.sum == sum(usage["prompt_tokens"] for usage in usages)
    assert (instruments.value("spillway.embeddings.joined"), instruments.total("spillway.embeddings.joined")) == (2, 5)


def test_a_client_that_hangs_up_is_no_error_of_an_operation_and_pays_for_what_it_used(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a", price=PRICE))))
    headers = {"authorization": SIGNER.authorization(HopIdentity("alice", "k"))}
    body = asks("[[sim tokens=1000 itl_ms=100]]", stream=True)
    with httpx2.stream("POST", service.url + CHAT, json=body, headers=headers, trust_env=False) as stream:
        next(stream.iter_raw())
    becomes(service, "spillway.attempts", of("sim-small", "a", outcome="cancelled"), 1)
    assert service.instruments.value(DURATION) == 0
    assert service.instruments.value(FIRST_CHUNK) == 1
    assert service.instruments.value("spillway.cost", of("sim-small", "a")) > 0


def test_a_new_version_of_the_catalogue_is_counted_and_so_is_one_that_is_refused(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a"))))
    service.becomes(models_yaml(model(at(one, "b"))))
    becomes(service, "spillway.catalogue.reloads", {"outcome": "taken"}, 1)
    service.becomes("no catalogue")
    becomes(service, "spillway.catalogue.reloads", {"outcome": "refused"}, 1)
    assert service.instruments.points("spillway.breaker.state", of("sim-small", "a")) == []
    assert service.instruments.value("spillway.breaker.state", of("sim-small", "b")) == 0


def test_made_up_names_of_models_make_one_series_whatever_they_are(
    one: Switched, serving: Callable[..., Service]
) -> None:
    service = serving(models_yaml(model(at(one, "a"))))
    service.post(CHAT, asks())
    becomes(service, "spillway.attempts", of("sim-small", "a", outcome="ok"), 1)
    before = service.instruments.series()
    for name in HOSTILE:
        assert service.post(CHAT, asks(name=name)).status_code == 404
    new = service.instruments.series() - before
    (of_models,) = [(found, labels) for found, labels in new if "gen_ai.request.model" in dict(labels)]
    assert of_models[0] == DURATION
    assert {("gen_ai.request.model", "other"), ("error.type", "model_not_found")} <= of_models[1]
    assert len(new) <= 3  # that, the duration of requests with this status, and refusals with this code


def test_without_a_catalogue_every_model_is_one_series(one: Switched) -> None:
    settings = Settings(
        upstream_base_url=f"{one.url}/v1",
        upstream_api_key=SecretStr("none"),
        hop_secret=SecretStr(SECRETS["inference_hop_secret"]),
        max_lag_s=60,
    )
    instruments = Instruments()
    headers = {"authorization": SIGNER.authorization(HopIdentity("alice", "k"))}
    with (
        running(inference.app.create_app(settings, meter=instruments.meter)) as url,
        httpx2.Client(base_url=url, headers=headers, timeout=BOUND_S, trust_env=False) as client,
    ):
        for name in ["sim-small", *HOSTILE]:
            client.post(CHAT, json=asks(name=name))
        labels = {point.attributes.get("gen_ai.request.model") for point in instruments.points(DURATION)}
        assert labels == {"other"}
        assert instruments.value(DURATION) == 1 + len(HOSTILE)
        told = json.dumps(sorted(str(one) for one in instruments.series()))
    assert "made-up" not in told
    assert "sk-live" not in told
