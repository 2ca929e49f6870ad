from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstack import local_dir
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

HOLDER = """
import signal, sys
from pathlib import Path
from devstack.local_dir import LocalDir, claimed
with claimed(LocalDir(Path(sys.argv[1]))):
    print("held", flush=True)
    signal.sigwait({signal.SIGUSR1})
"""


@pytest.fixture
def local(tmp_path: Path) -> LocalDir:
    return LocalDir(tmp_path / "local")


@pytest.fixture
def holder(local: LocalDir) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(local.root)], stdout=subprocess.PIPE)  # noqa: S603  # ours
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def test_the_directory_is_dot_local_unless_the_environment_says_otherwise() -> None:
    assert LocalDir.from_environ({}).root == Path.cwd() / ".local"
    assert LocalDir.from_environ({"SPILLWAY_LOCAL_DIR": "/elsewhere"}).root == Path("/elsewhere")


def test_a_second_stack_is_told_who_runs_already(local: LocalDir, holder: subprocess.Popen[bytes]) -> None:
    with (
        pytest.raises(CommandError, match=rf"running already \(pid {holder.pid}\).*\./justw down"),
        local_dir.claimed(local),
    ):
        pass

    holder.kill()
    holder.wait()


def test_a_stack_that_was_killed_leaves_the_directory_free(local: LocalDir, holder: subprocess.Popen[bytes]) -> None:
    assert local_dir.running_pid(local) == holder.pid

    holder.kill()
    holder.wait()

    assert local_dir.running_pid(local) is None
    with local_dir.claimed(local):
        assert local.pid.read_text() == str(os.getpid())


def test_down_stops_the_stack_and_says_whether_there_was_one(local: LocalDir, holder: subprocess.Popen[bytes]) -> None:
    assert local_dir.stop(local)
    assert holder.wait() != 0

    assert not local_dir.stop(local)


def test_down_without_a_directory_has_nothing_to_do(local: LocalDir) -> None:
    assert not local_dir.stop(local)


def test_reset_refuses_while_a_stack_runs(local: LocalDir, holder: subprocess.Popen[bytes]) -> None:
    local.secrets.write_text("A=1\n")

    with pytest.raises(CommandError, match="running already"):
        local_dir.reset(local, ("state",))

    assert local.secrets.exists()
    holder.kill()
    holder.wait()


def test_reset_removes_what_the_stack_wrote(local: LocalDir) -> None:
    local.store("state").mkdir(parents=True)
    (local.store("state") / "appendonly.aof").touch()
    for file in (local.secrets, local.dev_env, local.pid):
        file.touch()

    local_dir.reset(local, ("state", "cache"))

    assert not local.root.exists()


def test_reset_spares_what_somebody_else_keeps_there(local: LocalDir) -> None:
    local.root.mkdir()
    (local.root / "thesis.txt").write_text("years of work")
    local.secrets.touch()

    local_dir.reset(local, ("state",))

    assert [path.name for path in local.root.iterdir()] == ["thesis.txt"]


def test_reset_without_a_directory_has_nothing_to_do(local: LocalDir) -> None:
    local_dir.reset(local, ("state",))

    assert not local.root.exists()
