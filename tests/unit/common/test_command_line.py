"""How a command ends: its own status, and quietly when nobody reads on."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = "import sys; from common.command_line import run; run(lambda: {})"


@pytest.mark.parametrize(
    ("does", "status"),
    [
        ("print('x' * 1_000_000) or 0", 141),
        ("print('a line that waits for the end') or 0", 141),
        ("sys.stdout.write('as argparse does') and sys.exit(0)", 141),
        ("3", 3),
        ("(_ for _ in ()).throw(KeyboardInterrupt)", 130),
    ],
)
def test_a_command_whose_reader_has_left_or_whose_user_has_enough_prints_no_traceback(does: str, status: int) -> None:
    with subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-c", COMMAND.format(does)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert (process.stderr.read(), process.wait(30)) == (b"", status)
