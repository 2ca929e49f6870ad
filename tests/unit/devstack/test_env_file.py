from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from devstack import env_file
from devstack.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

AWKWARD = {"PLAIN": "a", "SPACE": "a b", "QUOTE": 'it\'s "so"', "SHELL": "$HOME `id` \\ # no comment", "EMPTY": ""}


@pytest.mark.parametrize("export", [True, False])
def test_what_was_written_is_read_back_whatever_it_holds(tmp_path: Path, export: bool) -> None:
    path = tmp_path / "a.env"

    env_file.write(path, AWKWARD, about="for a test", export=export)

    assert env_file.read(path) == AWKWARD


def test_a_shell_that_sources_the_file_exports_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    env_file.write(path, AWKWARD, about="for a test", export=True)
    shell, env = shutil.which("sh"), shutil.which("env")
    assert shell
    assert env

    printed = subprocess.run(  # noqa: S603  # a fixed script
        [shell, "-c", f'. "$1"; exec {env} -0', "sh", str(path)], env={}, capture_output=True, check=True
    ).stdout

    sourced = dict(line.partition("=")[::2] for line in printed.decode().split("\0") if line)
    assert AWKWARD.items() <= sourced.items()


def test_only_its_owner_can_read_the_file_even_where_an_open_one_stood(tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    path.write_text("OLD=1\n")
    path.chmod(0o644)

    env_file.write(path, {"NEW": "1"}, about="for a test")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert env_file.read(tmp_path / "none.env") == {}


def test_a_line_that_is_no_assignment_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.env"
    path.write_text("A=1\n\nwhat\n")

    with pytest.raises(CommandError, match="line 3"):
        env_file.read(path)
