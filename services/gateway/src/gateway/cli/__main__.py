"""`python -m gateway.cli keys list`, and so on: see `gateway.cli.commands`."""

from common.command_line import run
from gateway.cli.commands import main

if __name__ == "__main__":
    run(main)
