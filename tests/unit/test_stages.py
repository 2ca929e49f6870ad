from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from stages import stage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_what_fails_hides_no_report_and_the_first_comes_first(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    statuses = stage(shell("echo one; exit 3"), shell("echo two; echo three >&2; exit 1"), shell("echo four"))
    assert statuses == [3, 1, 0]
    assert capfdbinary.readouterr().out == b"one\ntwo\nthree\nfour\n"


def test_who_is_killed_has_failed() -> None:
    assert stage(shell("kill -9 $$"), shell("true")) == [9, 0]


def test_those_of_a_stage_run_side_by_side(tmp_path: Path) -> None:
    """Whoever opens one end of a pipe waits for whoever opens the other."""
    os.mkfifo(pipe := tmp_path / "pipe")
    assert stage(shell(f"echo met >{shlex.quote(str(pipe))}"), shell(f"cat {shlex.quote(str(pipe))}")) == [0, 0]
