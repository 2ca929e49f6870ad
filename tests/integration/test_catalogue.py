"""The catalogue over real sockets: what is served under which name, and how a new version comes in under load."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import httpx2
import pytest

from inference.models_file import read
from support.catalogue import model, models_yaml, target
from support.chaos import times
from support.inference_service import Service, inference_service
from support.load import Load
from support.platform import UPSTREAM_KEY
from support.upstreams import Switched, switched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.load import Outcomes

PRICE = "{input_usd: 1, output_usd: 2, as_of: 2026-11-01}"
CHAT = "/v1/chat/completions"


def asks(name: str) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Switched]:
    with switched(UPSTREAM_KEY) as started:
        yield started


def public(upstream: Switched, **fields: object) -> str:
    """One model whose name the provider does not know."""
    key = {"api_key": "PROVIDER_KEY", "model": "sim-small", "price": PRICE}
    return models_yaml(model(target("primary", base_url=f"{upstream.url}/v1", **fields or key), name="public"))


@pytest.fixture(scope="module")
def service(upstream: Switched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("catalogue")
    (directory / "PROVIDER_KEY").write_text(f"{UPSTREAM_KEY}\n")
    with inference_service(directory / "models.yaml", public(upstream), secrets_dir=directory) as started:
        yield started


def test_the_provider_is_asked_by_its_own_name_of_the_model_and_with_its_own_key(
    service: Service, upstream: Switched
) -> None:
    answer = service.post(CHAT, asks("public"), **{"x-request-id": "req_name"})
    assert answer.status_code == 200
    assert (answer.headers["x-spillway-model"], answer.headers["x-spillway-target"]) == ("public", "primary")
    seen = httpx2.get(f"{upstream.url}/_sim/requests?request_id=req_name", trust_env=False).json()["requests"]
    assert [attempt["model"] for attempt in seen] == ["sim-small"]


def test_the_models_are_those_of_the_catalogue_in_openais_shape(service: Service) -> None:
    listed = service.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(one["id"], one["object"]) for one in listed["data"]] == [("public", "model")]


@pytest.mark.parametrize("name", ["sim-small", "unknown", "../../etc"])
def test_a_model_that_is_not_in_the_catalogue_is_a_404_and_reaches_nobody(
    service: Service, upstream: Switched, name: str
) -> None:
    before = upstream.asked
    answer = service.post(CHAT, asks(name))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.content == service.post(CHAT, asks("another")).content
    assert upstream.asked == before


def test_the_gateway_learns_prices_and_caps_and_nothing_of_the_provider(service: Service) -> None:
    answer = service.get("/v1/catalogue")
    assert answer.json()["models"] == {
        "public": {"price": {"input_usd": 1, "output_usd": 2}, "max_output_tokens": None}
    }
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    assert "http" not in answer.text
    assert UPSTREAM_KEY not in answer.text


def test_what_the_gateway_knows_already_is_not_sent_again(service: Service) -> None:
    tag = service.get("/v1/catalogue").headers["etag"]
    for known in (tag, f'"x", {tag}', f"W/{tag}"):
        again = service.get("/v1/catalogue", **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert service.get("/v1/catalogue", **{"if-none-match": '"x"'}).status_code == 200


def test_the_catalogue_is_for_the_platform_alone(service: Service) -> None:
    assert httpx2.get(f"{service.url}/v1/catalogue", trust_env=False).status_code == 401


@pytest.mark.parametrize(("header", "attempts"), [("1", "1"), ("2", "2"), ("9", "3"), ("x", "3"), ("0", "1")])
def test_a_caller_may_allow_fewer_attempts_and_never_more(tmp_path: Path, header: str, attempts: str) -> None:
    with switched() as upstream, inference_service(tmp_path / "m.yaml", public(upstream, model="sim-small")) as service:
        upstream.status = 503
        answer = service.post(CHAT, asks("public"), **{"x-spillway-max-attempts": header})
        assert (answer.status_code, answer.headers["x-upstream-attempts"]) == (503, attempts)
        assert upstream.asked == int(attempts)


@pytest.mark.parametrize("is_ready_without", [True])
def test_a_service_whose_upstreams_are_all_away_is_ready(tmp_path: Path, is_ready_without: bool) -> None:
    text = models_yaml(model(target("gone", base_url="http://127.0.0.1:9/v1")))
    with inference_service(tmp_path / "models.yaml", text) as service:
        assert (service.get("/readyz").status_code == 200) is is_ready_without


@pytest.mark.chaos
@pytest.mark.measured
async def test_a_hundred_reloads_under_load_a_third_of_them_broken_fail_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloads = times(100, 1_000)
    with switched() as one, switched() as other:

        def version(number: int) -> str:
            name, base_url = (f"a{number}", one.url) if number % 2 else ("b", other.url)
            return models_yaml(model(target(name, base_url=f"{base_url}/v1", weight=1 + number)))

        with inference_service(tmp_path / "models.yaml", version(0)) as service, caplog.at_level(logging.INFO):

            async def exchange() -> None:
                for number in range(1, reloads + 1):
                    is_broken = number % 3 == 0
                    text = version(number)
                    before = said(caplog)
                    service.becomes(text.replace("base_url", "base-url") if is_broken else text)
                    await seen(caplog, before + 1)

            async with Load(service.url) as load:
                exchanged = asyncio.create_task(exchange())
                outcomes = await load.at(40, until=exchanged.done)
                await exchanged
            told = [record.message for record in caplog.records if record.name == "inference.live_catalogue"]
            last = read(version(reloads).encode(), "models.yaml")
            assert service.revision() == last.revision
    print(f"{reloads} reloads, {len(outcomes.statuses)} requests, {outcomes.failed} failed")  # noqa: T201  # the figure
    assert told.count("catalogue_refused") == reloads // 3
    assert told.count("catalogue_reloaded") == reloads - reloads // 3
    assert len(outcomes.statuses) > reloads / 3
    assert outcomes.failed == 0


def said(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.name == "inference.live_catalogue" for record in caplog.records)


async def seen(caplog: pytest.LogCaptureFixture, count: int) -> None:
    async with asyncio.timeout(10):
        while said(caplog) < count:  # noqa: ASYNC110  # the log of another thread has no event
            await asyncio.sleep(0.005)


def canary(old: Switched, new: Switched, percent: float) -> str:
    """The catalogue of a roll-out at one of its steps, as docs/operations.md walks through it."""
    targets = (target("v1", base_url=f"{old.url}/v1"), target("v2", base_url=f"{new.url}/v1"))
    if percent == 100:
        return models_yaml(model(targets[1]))
    if percent == 0:
        return models_yaml(model(targets[0]))
    return models_yaml(model(*targets, canary=f"{{target: v2, percent: {percent}, window_s: 30}}"))


@pytest.mark.chaos
@pytest.mark.measured
async def test_a_new_version_is_walked_in_step_by_step_under_load_and_no_request_fails(tmp_path: Path) -> None:
    with switched() as old, switched() as new:
        file = tmp_path / "models.yaml"
        with inference_service(file, canary(old, new, 0)) as service:
            async with Load(service.url) as load:
                shares, failed = [], 0
                for percent in (0, 5, 25, 50, 100):
                    text = canary(old, new, percent)
                    service.becomes(text)
                    wanted = read(text.encode(), "models.yaml").revision
                    meanwhile = await load.at(40, until=lambda wanted=wanted: service.revision() == wanted)  # type: ignore[misc]  # bound at once
                    outcomes = await load.at(40, seconds=times(2, 20))
                    failed += meanwhile.failed + outcomes.failed
                    shares.append(share_of(outcomes, "v2"))
    print(f"share of the new version at 0, 5, 25, 50, 100 %: {shares}; failed: {failed}")  # noqa: T201  # the figures
    assert failed == 0
    assert (shares[0], shares[4]) == (0, 1)
    assert shares == sorted(shares)
    assert 0 < shares[2] < 0.5


def share_of(outcomes: Outcomes, name: str) -> float:
    return round(outcomes.targets.count(name) / len(outcomes.targets), 3)


@pytest.mark.chaos
@pytest.mark.measured
@pytest.mark.parametrize("how", ["errors", "late"])
async def test_a_canary_that_turns_bad_at_a_fifth_is_rolled_back_within_its_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(switched()) for _ in range(2))
        service = stack.enter_context(inference_service(tmp_path / "models.yaml", canary(old, new, 20)))
        async with Load(service.url) as load:
            good = await load.at(40, seconds=4)
            assert good.failed == 0
            assert 0.05 < share_of(good, "v2") < 0.4
            if how == "errors":
                new.status = 500
            else:
                new.delay_s = 0.3
            bad = await load.at(40, seconds=times(8, 25))  # less than the canary's window
            assert [one.message for one in caplog.records].count("canary_rolled_back") == 1
            after = await load.at(40, seconds=2)
    lost = bad.failed / len(bad.statuses)
    print(f"{how}: {bad.failed} of {len(bad.statuses)} requests failed ({lost:.1%}) until the canary was rolled back")  # noqa: T201  # the figures
    assert lost <= 0.1
    assert (bad.failed > 0) is (how == "errors")
    assert (after.failed, share_of(after, "v2")) == (0, 0)


@pytest.mark.chaos
@pytest.mark.measured
@pytest.mark.parametrize("run", range(times(1, 5)))
async def test_an_upstream_that_is_away_gets_no_storm_and_its_return_is_felt_within_seconds(
    tmp_path: Path, run: int
) -> None:
    rate = 40
    with switched() as upstream:
        text = models_yaml(model(target("a", base_url=f"{upstream.url}/v1")))
        with inference_service(tmp_path / "models.yaml", text) as service:
            async with Load(service.url) as load:
                await load.at(rate, seconds=times(3, 30))
                upstream.status = 503
                ratios = []
                for seconds in (times(3, 10), times(3, 50)):
                    before = upstream.asked
                    away = await load.at(rate, seconds=seconds)
                    ratios.append((upstream.asked - before) / len(away.statuses))
                    assert set(away.statuses) == {503}
                    assert max(away.attempts) <= 3
                upstream.status = None
                await load.at(rate, seconds=times(6, 10))
                healed = await load.at(rate, seconds=times(2, 10))
    told = f"attempts per request {ratios[0]:.2f}, then {ratios[1]:.2f}; healed: {healed.answered_share:.1%}"
    print(f"run {run}: {told} {dict(healed.codes)}")  # noqa: T201  # the figures
    assert ratios[0] <= 2
    assert ratios[1] <= 1.2
    assert healed.answered_share >= 0.99
