"""The secrets of the Compose stack: made once, shared by those who need the same one, replaced from standard input."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.compose import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHARED = [
    ("gateway/GATEWAY_CACHE_HOP_SECRET", "cache/CACHE_HOP_SECRET"),
    ("gateway/GATEWAY_INFERENCE_HOP_SECRET", "inference/INFERENCE_HOP_SECRET"),
    ("gateway/GATEWAY_JOBS_HOP_SECRET", "jobs/JOBS_HOP_SECRET"),
    ("gateway/GATEWAY_HOP_SECRET", "worker/WORKER_GATEWAY_HOP_SECRET"),
    ("jobs/JOBS_SEAL_SECRET", "worker/WORKER_SEAL_SECRET"),
]


def run(
    directory: Path, *arguments: str, given: str = "", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # the script under test
        [sys.executable, "-W", "error", str(FOLDER / "make_secrets.py"), str(directory), *arguments],
        input=given, capture_output=True, text=True, check=False, timeout=30, env=os.environ | dict(environ or {}),
    )  # fmt: skip


def files_in(directory: Path) -> dict[str, str]:
    return {str(file.relative_to(directory)): file.read_text() for file in directory.glob("*/*")}


def test_every_secret_is_random_and_the_two_ends_of_a_hop_share_theirs(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    made = files_in(tmp_path)
    for one, other in SHARED:
        assert made[one] == made[other]
    values = set(made.values())
    assert len(values) == len(made) - len(SHARED)
    assert min(map(len, values)) >= 43  # 256 bits


def test_what_is_there_stays_and_what_is_missing_is_made_to_fit(tmp_path: Path) -> None:
    run(tmp_path)
    before = files_in(tmp_path)
    (tmp_path / "cache" / "CACHE_HOP_SECRET").unlink()
    (tmp_path / "gateway" / "GATEWAY_JOBS_HOP_SECRET").unlink()
    assert run(tmp_path).stdout == "made cache/CACHE_HOP_SECRET, gateway/GATEWAY_JOBS_HOP_SECRET\n"
    assert files_in(tmp_path) == before


def test_a_secret_of_ones_own_goes_to_all_who_share_it(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, "cache/CACHE_HOP_SECRET", given="my own, of 32 characters or more").returncode == 0
    now = files_in(tmp_path)
    assert {now[place] for place in SHARED[0]} == {"my own, of 32 characters or more"}


def test_a_service_that_is_not_root_can_read_its_secrets_and_not_change_them(tmp_path: Path) -> None:
    run(tmp_path)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("*/*")} == {0o444}


def test_the_upstreams_key_comes_from_the_environment_and_outlives_it(tmp_path: Path) -> None:
    run(tmp_path)
    assert "inference/OPENAI_API_KEY" not in files_in(tmp_path)
    run(tmp_path, environ={"OPENAI_API_KEY": "sk-one"})
    run(tmp_path, environ={"OPENAI_API_KEY": "sk-two"})
    run(tmp_path, environ={"OPENAI_API_KEY": ""})
    assert files_in(tmp_path)["inference/OPENAI_API_KEY"] == "sk-two"


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ((), {"OPENAI_API_KEY": "sw_live_hunter2"}, "is a key of Spillway's own"),
        (("gateway/NOTHING",), {}, "gateway/NOTHING is none of"),
        (("../GATEWAY_ADMIN_KEY",), {}, "is none of"),
        (("gateway/GATEWAY_ADMIN_KEY",), {}, "GATEWAY_ADMIN_KEY is empty"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    ended = run(tmp_path, *arguments, environ=environ)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.stderr + ended.stdout
    assert files_in(tmp_path) == {}
