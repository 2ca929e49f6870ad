"""The one error of a command-line tool."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do its work. The message is the one line that its user reads; the exit status is 1."""
