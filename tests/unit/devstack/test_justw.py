"""The launcher in a checkout of its own, with stand-ins for Python, pip, uv and just: nothing is downloaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
PINS = (CHECKOUT / "justw.requirements.txt").read_text()
UV, JUST = (re.search(rf"^{name}==(\S+)", PINS, re.MULTILINE)[1] for name in ("uv", "rust-just"))  # type: ignore[index]
SHELLS = [shell for shell in ("dash", "bash", "sh") if shutil.which(shell)]
NEEDED = ("sh", "dirname", "mkdir", "mktemp", "mv", "rm", "cat", "chmod", "env")

# `python -m venv DIR` makes a python whose pip "installs" the two tools by writing them.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
  "-m venv")
    mkdir -p "$3/bin"
    echo venv >>"$JOURNAL"
    cat >"$3/bin/python" <<'END'
#!/bin/sh
echo "$@" >>"$JOURNAL"
[ -z "${{FAIL-}}" ] || exit 1
cat >"${{0%/*}}/uv" <<'TOOL'
#!/bin/sh
echo "uv {UV} (installed)"
TOOL
cat >"${{0%/*}}/just" <<'TOOL'
#!/bin/sh
echo "installed just $*"
echo "UV_PYTHON=$UV_PYTHON UV_PYTHON_DOWNLOADS=$UV_PYTHON_DOWNLOADS"
uv --version
TOOL
chmod +x "${{0%/*}}/uv" "${{0%/*}}/just"
END
    chmod +x "$3/bin/python" ;;
  "-c "*) echo "$0" ;;  # new enough, and no other interpreter's environment
esac
"""


class Checkout:
    def __init__(self, root: Path, shell: str) -> None:
        self.root, self._shell = root / "a checkout", shell
        self._path, self.journal = root / "bin", root / "journal"
        self.root.mkdir()
        self._path.mkdir()
        for name in ("justw", "justw.requirements.txt"):
            shutil.copy(CHECKOUT / name, self.root)
        (self.root / "justfile").touch()
        for name in NEEDED:
            found = shutil.which(name)
            assert found
            (self._path / name).symlink_to(found)
        self.put("python3", PYTHON)

    def put(self, name: str, script: str) -> None:
        (self._path / name).write_text(script)
        (self._path / name).chmod(0o755)

    def start(self, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603  # the subject of the test
            [shutil.which(self._shell) or self._shell, str(self.root / "justw"), *arguments],
            env={"PATH": str(self._path), "JOURNAL": str(self.journal), **environ},
            cwd=cwd or self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, cwd: Path | None = None, **environ: str) -> tuple[int, list[str], list[str]]:
        process = self.start(*arguments, cwd=cwd, **environ)
        out, err = process.communicate(timeout=30)
        return process.returncode, out.splitlines(), err.splitlines()


@pytest.fixture(params=SHELLS)
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Checkout:
    return Checkout(tmp_path, request.param)


def test_the_first_run_installs_the_pinned_tools_by_hash_and_runs_the_recipe(checkout: Checkout) -> None:
    status, out, err = checkout.run("up", "a b")

    assert status == 0
    assert out[0] == f"installed just --justfile {checkout.root}/justfile up a b"
    assert out[1].startswith("UV_PYTHON=/")
    assert out[1].endswith("UV_PYTHON_DOWNLOADS=never")
    assert out[2] == f"uv {UV} (installed)"
    assert err == [f"justw: installing just {JUST} and uv {UV} into .tools (once)"]
    assert "--require-hashes --only-binary :all:" in checkout.journal.read_text()


def test_the_next_run_is_quiet_and_installs_nothing(checkout: Checkout) -> None:
    checkout.run("up")
    installed = checkout.journal.read_text()

    status, out, err = checkout.run("up")

    assert (status, err) == (0, [])
    assert out[0].startswith("installed just")
    assert checkout.journal.read_text() == installed


def test_it_works_from_any_directory(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run("up", cwd=tmp_path, CDPATH=str(tmp_path))[0] == 0


def test_tools_of_the_pinned_versions_on_the_path_are_used(checkout: Checkout) -> None:
    checkout.put("uv", f'#!/bin/sh\necho "uv {UV} (abc 2026-01-01)"\n')
    checkout.put("just", f'#!/bin/sh\n[ "$1" = --version ] && echo "just {JUST}" || echo "own just $*"\n')

    status, out, err = checkout.run("up")

    assert (status, err) == (0, [])
    assert out[0].startswith("own just")
    assert not checkout.journal.exists()


def test_tools_of_other_versions_on_the_path_are_not(checkout: Checkout) -> None:
    checkout.put("uv", f'#!/bin/sh\necho "uv {UV}1"\n')
    checkout.put("just", f'#!/bin/sh\necho "just {JUST}"\n')

    _, out, _ = checkout.run("up")

    assert out[0].startswith("installed just")


def test_two_first_runs_at_once_do_not_disturb_each_other(checkout: Checkout) -> None:
    both = [checkout.start("up"), checkout.start("up")]
    outs = [process.communicate(timeout=30)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert all(out.startswith("installed just") for out in outs)


def test_an_install_that_fails_leaves_nothing_that_a_later_run_would_use(checkout: Checkout) -> None:
    status, _, err = checkout.run("up", FAIL="1")

    assert status == 1
    assert "pip could not install" in err[-1]
    assert [path.name for path in (checkout.root / ".tools").iterdir()] == ["python"]
    assert checkout.run("up")[0] == 0


def test_without_a_recent_python_one_line_says_what_is_needed(checkout: Checkout) -> None:
    checkout.put("python3", "#!/bin/sh\nexit 1\n")
    checkout.put("python3.12", "#!/bin/sh\necho command not found >&2; exit 127\n")

    status, out, err = checkout.run("up")

    assert (status, out) == (1, [])
    assert err == ["justw: Python 3.11 or newer is needed; neither python3 nor python3.11 to python3.14 on PATH is one"]


def test_a_newer_python_beside_an_old_one_is_found(checkout: Checkout) -> None:
    checkout.put("python3", "#!/bin/sh\nexit 1\n")
    checkout.put("python3.13", PYTHON)

    assert checkout.run("up")[0] == 0


def test_an_interpreter_that_went_away_is_searched_again(checkout: Checkout) -> None:
    checkout.run("up")
    (checkout.root / ".tools" / "python").write_text("/gone/python3\n")

    status, out, _ = checkout.run("up")

    assert status == 0
    assert "UV_PYTHON=/gone" not in out[1]
    assert os.access((checkout.root / ".tools" / "python").read_text().strip(), os.X_OK)
