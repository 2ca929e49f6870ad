"""The frame around a command that people run: how it ends when they press Ctrl-C or stop reading."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130
READER_GONE = 141
"""As a shell shows the end of a program by SIGPIPE."""


def run(main: Callable[[], int]) -> NoReturn:
    """Exit with the status that `main` returns. Whoever reads only the beginning (`… | head`) sees no traceback."""
    try:
        try:
            status = main()
        finally:  # argparse's own exits (`--help`) included
            sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the very end
        status = READER_GONE
    sys.exit(status)
