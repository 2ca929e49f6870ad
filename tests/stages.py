"""`stages.py CHECK`: everything that CI runs, CHECK (a command line) and every test, in three stages.

1. CHECK beside unit and contract tests: they want a processor as it does, and care for no clock.
2. Integration tests beside those of the whole stack and chaos: while the one waits, the other works.
3. What is marked `measured`, of all these, alone.

In a stage the first has the terminal; the others' reports follow when all have ended. Only a CHECK that fails ends it
early.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BESIDE = (("tests/integration",), ("tests/e2e", "tests/chaos"))
OF_CHECK = ("tests/unit/infra/k8s/test_sources.py", "tests/unit/infra/k8s/test_rendered.py")


def main(check: str) -> int:
    units = pytest("tests/unit", "tests/contract", *(f"--ignore={file}" for file in OF_CHECK))
    checked, unit = stage(["sh", "-c", check], units)
    if checked:
        return checked
    beside = stage(*(pytest("-m", "not measured", *folders) for folders in BESIDE))
    alone = stage(pytest("-m", "measured", *itertools.chain(*BESIDE)))
    return max(unit, *beside, *alone)


def pytest(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("pytest")), *arguments]


def stage(*commands: list[str]) -> list[int]:
    """Run the commands side by side; return the status of each."""
    with contextlib.ExitStack() as stack:
        reports = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands[1:]]
        processes = [
            stack.enter_context(running(command, output))
            for command, output in zip(commands, [None, *reports], strict=True)
        ]
        statuses = [process.wait() for process in processes]
        for report in reports:
            report.seek(0)
            sys.stdout.buffer.write(report.read())
            sys.stdout.flush()
    return [abs(status) for status in statuses]  # below 0: ended by a signal


@contextlib.contextmanager
def running(command: list[str], output: IO[bytes] | None) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever happens here, it is waited for: Ctrl-C reaches it as well, and it stops what it started."""
    process = subprocess.Popen(command, stdout=output, stderr=output and subprocess.STDOUT)  # noqa: S603  # ours
    try:
        yield process
    finally:
        process.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
