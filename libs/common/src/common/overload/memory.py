"""How much of its memory this process has used: of its control group's limit (Linux), or of a setting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CGROUP = Path("/sys/fs/cgroup")
_STATM = Path("/proc/self/statm")


def memory_gauge(limit_bytes: int | None = None, cgroup: Path = _CGROUP) -> Callable[[], float] | None:
    """A function that returns the used share, or None where nothing says what the limit is.

    With `limit_bytes` it is this process's resident set that counts; else that of the whole group, without the page
    cache that the kernel can take back at once. Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.
    """
    if limit_bytes is not None:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        if not _STATM.exists():
            return None
        return lambda: int(_STATM.read_text().split()[1]) * page_bytes / limit_bytes
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max": there is none
    except (OSError, ValueError):
        return None
    return lambda: _of_group(cgroup) / limit


def _of_group(cgroup: Path) -> int:
    current = int((cgroup / "memory.current").read_text())
    for line in (cgroup / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return max(current - int(value), 0)
    return current
