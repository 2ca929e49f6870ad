"""What the images are made of, as the lock and the Dockerfiles say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCKERFILES = {
    path.parent.name: path for folder in ("services", "libs") for path in sorted(ROOT.glob(f"{folder}/*/Dockerfile"))
}
IMAGES = tuple(DOCKERFILES)
LOCK: dict[str, dict[str, Any]] = {
    package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}
MEMBERS = set(tomllib.loads((ROOT / "uv.lock").read_text())["manifest"]["members"])


def brought_by(name: str) -> set[str]:
    """All that the lock brings with a package of ours, itself included, on whatever platform."""
    found: set[str] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, ())]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        current, extras = waiting.pop()
        if (current, extras) in seen:
            continue
        seen.add((current, extras))
        found.add(current)
        package = LOCK[current]
        optional = package.get("optional-dependencies", {})
        groups = [package.get("dependencies", []), *(optional[extra] for extra in extras)]
        waiting += [(entry["name"], tuple(entry.get("extra", ()))) for group in groups for entry in group]
    return found
