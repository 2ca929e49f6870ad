"""New versions of the catalogue and of a model come in under load and bad ones go out again; no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from inference.models_file import read
from support.catalogue import model, models_yaml, target
from support.chaos import times
from support.inference_service import inference_service
from support.load import Load
from support.upstreams import Switched, switched

if TYPE_CHECKING:
    from pathlib import Path

    from support.load import Outcomes

pytestmark = pytest.mark.chaos


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
