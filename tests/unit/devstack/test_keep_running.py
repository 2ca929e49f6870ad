"""The shell loop around each part, under a relay and in a session of its own, as honcho runs it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

import devstack

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOP = Path(devstack.__file__).with_name("keep_running.sh")
SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
RELAY = "import subprocess, sys; sys.exit(subprocess.Popen(sys.argv[1:], start_new_session=True).wait())"
BOUND_S = 10


class Supervised:
    """`script` under the loop, with a pipe that stands for `up`."""

    def __init__(self, shell: str, tmp_path: Path, script: str) -> None:
        pipe = tmp_path / "alive"
        os.mkfifo(pipe)
        self._writer = os.open(pipe, os.O_RDWR | os.O_CLOEXEC)
        relay = [sys.executable, "-c", RELAY, shell, str(LOOP), str(pipe)]
        env = {**os.environ, "PART_COMMAND": shlex.join(["sh", "-c", f"echo $PPID; {script}"])}
        self.relay = subprocess.Popen(relay, stdout=subprocess.PIPE, text=True, env=env)  # noqa: S603  # fixed scripts
        assert self.relay.stdout
        self.lines: IO[str] = self.relay.stdout
        self.session = int(self.lines.readline())

    def close_pipe(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        self.close_pipe()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.session, signal.SIGKILL)
        self.relay.wait(BOUND_S)
        self.lines.close()


class Start:
    def __init__(self, shell: str, tmp_path: Path) -> None:
        self._shell, self._tmp_path = shell, tmp_path
        self.started: list[Supervised] = []

    def __call__(self, script: str) -> Supervised:
        self.started.append(Supervised(self._shell, self._tmp_path, script))
        return self.started[-1]


@pytest.fixture(params=SHELLS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    start = Start(request.param, tmp_path)
    yield start
    for supervised in start.started:
        supervised.close()


def test_a_part_that_is_killed_is_started_again_and_that_is_said(start: Start) -> None:
    part = start("echo $$; exec tail -f /dev/null")
    first = int(part.lines.readline())

    os.kill(first, signal.SIGKILL)

    assert part.lines.readline() == "ended with status 137; starting it again\n"
    assert int(part.lines.readline()) == part.session  # under the same loop
    assert int(part.lines.readline()) != first


def test_a_part_that_says_its_configuration_is_bad_is_given_up(start: Start) -> None:
    part = start("echo PORT is taken; exit 2")

    assert part.lines.readline() == "PORT is taken\n"
    assert part.relay.wait(BOUND_S) == 2


def test_a_stop_ends_the_part_and_leaves_nothing(start: Start) -> None:
    part = start("echo started; exec tail -f /dev/null")
    assert part.lines.readline() == "started\n"

    os.killpg(part.session, signal.SIGTERM)

    assert part.relay.wait(BOUND_S) == 0
    assert part.lines.read() == ""  # the end of the pipe: no process of the session holds it any more


@pytest.mark.parametrize("manners", ["", "trap '' TERM; "], ids=["asked to", "forced to, as it ignores being asked"])
def test_a_part_ends_when_up_is_gone_however_that_came_about(start: Start, manners: str) -> None:
    part = start(f"{manners}echo started; tail -f /dev/null; tail -f /dev/null")
    assert part.lines.readline() == "started\n"

    part.close_pipe()

    part.relay.wait(BOUND_S)
    assert part.lines.read() == ""


def test_a_part_has_no_terminal_to_read_from(start: Start) -> None:
    part = start("cat; echo nothing to read; exec tail -f /dev/null")

    assert part.lines.readline() == "nothing to read\n"
