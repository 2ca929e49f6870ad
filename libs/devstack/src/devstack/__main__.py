from __future__ import annotations

from common.command_line import run
from devstack.cli import main

if __name__ == "__main__":
    run(main)
