from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING

import pytest

from common.settings import BadSettingsError
from inference.live_catalogue import LiveCatalogue
from inference.named_secrets import NamedSecrets
from support.catalogue import NO_SECRETS, ONE_TARGET, model, models_yaml, target

if TYPE_CHECKING:
    from pathlib import Path

    from inference.catalogue import Catalogue

TWO_MODELS = models_yaml(model(target("a")), model(target("b"), name="other"))
BROKEN = "version: 1\nmodels:\n  m: {}\n"
BOUND_S = 5


class File:
    """A catalogue's file, and what was made of its versions."""

    def __init__(self, path: Path, text: str = ONE_TARGET, secrets: NamedSecrets = NO_SECRETS) -> None:
        self.path = path
        path.write_text(text)
        self.live = LiveCatalogue(path, secrets, poll_s=60)
        self.versions: list[Catalogue] = []

    async def becomes(self, text: str) -> None:
        self.path.write_text(text)
        await self.live.look(self.versions.append)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "models.yaml")


async def test_a_new_version_takes_the_place_of_the_old_one(file: File) -> None:
    await file.becomes(TWO_MODELS)
    assert file.live.current is file.versions[0]
    assert set(file.live.current.models) == {"sim-small", "other"}
    assert (file.live.reloads, file.live.refused) == (1, 0)


async def test_a_file_that_did_not_change_is_not_taken_up_again(file: File) -> None:
    await file.becomes(ONE_TARGET)
    await file.live.look(file.versions.append, is_asked=True)
    assert (file.versions, file.live.reloads) == ([], 0)


async def test_a_bad_version_is_refused_said_once_and_counted_and_the_last_good_one_stays(
    file: File, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.live.current
    with caplog.at_level(logging.INFO):
        await file.becomes(BROKEN)
        await file.becomes(BROKEN)
    assert file.live.current is before
    assert (file.versions, file.live.refused) == ([], 1)
    (record,) = caplog.records
    assert record.message == "catalogue_refused"
    assert record.__dict__["problems"] == ["3: models.m.targets: Field required"]
    await file.becomes(TWO_MODELS)
    await file.becomes(BROKEN)
    assert (file.live.reloads, file.live.refused) == (1, 2)


async def test_a_good_version_that_comes_back_after_a_bad_one_changes_nothing(file: File) -> None:
    await file.becomes(BROKEN)
    await file.becomes(ONE_TARGET)
    assert set(file.live.current.models) == {"sim-small"}


async def test_a_file_that_is_gone_is_a_bad_version(file: File) -> None:
    file.path.unlink()
    await file.live.look(file.versions.append)
    assert (file.live.refused, set(file.live.current.models)) == (1, {"sim-small"})


async def test_a_secret_that_is_rotated_is_taken_up_like_a_change_of_the_file(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "KEY").write_text("sk-old")
    text = models_yaml(model(target("a", api_key="KEY")))
    file = File(tmp_path / "models.yaml", text, NamedSecrets({}, secrets))
    await file.becomes(text)
    assert file.versions == []
    (secrets / "KEY").write_text("sk-new")
    await file.becomes(text)
    assert len(file.versions) == 1
    (secrets / "KEY").unlink()
    await file.becomes(text)
    assert (file.live.reloads, file.live.refused) == (1, 1)


def test_without_one_good_version_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(BadSettingsError, match=r"INFERENCE_MODELS_FILE: .*models.yaml:3: models.m.targets"):
        File(tmp_path / "models.yaml", BROKEN)


@pytest.mark.parametrize("poll_s", [0.01, 60])
async def test_a_change_is_found_by_polling_or_at_a_signal(file: File, poll_s: float) -> None:
    live = LiveCatalogue(file.path, NO_SECRETS, poll_s=poll_s)
    replaced = asyncio.Event()
    async with live.watching(lambda _: replaced.set()):
        file.path.write_text(TWO_MODELS)
        if poll_s > BOUND_S:
            os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(replaced.wait(), BOUND_S)
    assert set(live.current.models) == {"sim-small", "other"}


async def test_a_link_that_a_mount_exchanges_is_a_change(tmp_path: Path) -> None:
    for name, text in (("old", ONE_TARGET), ("new", TWO_MODELS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.yaml").write_text(text)
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "old")
    live = LiveCatalogue(link / "models.yaml", NO_SECRETS, poll_s=60)
    link.unlink()
    link.symlink_to(tmp_path / "new")
    versions: list[Catalogue] = []
    await live.look(versions.append)
    assert len(versions) == 1
