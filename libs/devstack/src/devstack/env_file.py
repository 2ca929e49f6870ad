"""Files of shell variables that only their owner can read: `NAME=value` or `export NAME=value`, quoted for sh."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from devstack.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read(path: Path) -> dict[str, str]:
    """Read the variables, none when there is no file. Raises `CommandError` naming a line that is no assignment."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    variables = {}
    for number, line in enumerate(lines, 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        name, equals, value = words[-1].partition("=")
        if not equals:
            raise CommandError(f"{path}, line {number} is not NAME=value")
        variables[name] = value
    return variables


def write(path: Path, variables: Mapping[str, str], *, about: str, export: bool = False) -> None:
    """Replace the file at once, mode 0600; a reader sees the old or the new one, never a part."""
    keyword = "export " if export else ""
    lines = [f"# {about}", *(f"{keyword}{name}={shlex.quote(value)}" for name, value in variables.items())]
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    new.replace(path)
