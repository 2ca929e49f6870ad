"""The secrets that the catalogue names: it never holds one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class NamedSecrets:
    """Looks a secret up: a file of this name in `directory` (as Docker and Kubernetes mount them), else a variable."""

    environ: Mapping[str, str]
    directory: Path | None = None

    def value(self, name: str) -> str | None:
        """Without white space around it; None when there is none, or an empty one. A name is no path: see its type."""
        text = self.environ.get(name)
        if self.directory is not None and (file := self.directory / name).is_file():
            text = file.read_text("utf-8")
        return (text or "").strip() or None

    def __repr__(self) -> str:
        return "NamedSecrets()"
