"""Which part of the stack listens where, and whether it can."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from devstack.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HOST = "127.0.0.1"
OFFSET_VARIABLE = "SPILLWAY_PORT_OFFSET"
DEFAULTS = {
    "valkey-state": 6391,
    "valkey-limits": 6392,
    "valkey-cache": 6393,
    "simulator": 8090,
    "cache": 8082,
    "jobs": 8083,
    "worker": 8084,
    "inference": 8081,
    "gateway": 8080,
    "traces": 4318,
    "gateway-metrics": 9464,
    "inference-metrics": 9465,
    "cache-metrics": 9466,
    "jobs-metrics": 9467,
    "worker-metrics": 9468,
}
_OWN_VARIABLE = DEFAULTS.keys() - {"valkey-state", "valkey-limits", "valkey-cache", "traces"}
_LAST_PORT = 65_535
_STEP = 100


def assign(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the port of each part: the default plus `SPILLWAY_PORT_OFFSET`, unless e.g. `GATEWAY_PORT` is set.

    Raises `CommandError` that names a variable which is no port.
    """
    offset = _number(environ, OFFSET_VARIABLE, 0)
    ports = {}
    for part, default in DEFAULTS.items():
        variable = _variable(part)
        port = default + offset
        if part in _OWN_VARIABLE:
            port = _number(environ, variable, port)
        least = 0 if part.endswith("-metrics") else 1  # 0: no page of metrics
        if not least <= port <= _LAST_PORT:
            raise CommandError(f"port {port} for {part} is out of range; check {OFFSET_VARIABLE} and {variable}")
        ports[part] = port
    return ports


def _variable(part: str) -> str:
    return f"{part.upper().replace('-', '_')}_PORT"


def _number(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable) or str(default)
    try:
        return int(text)
    except ValueError:
        raise CommandError(f"{variable} must be a whole number, not {text!r}") from None


def refuse_taken(wanted: Mapping[str, int], parts: Iterable[str], environ: Mapping[str, str]) -> None:
    """Raise `CommandError` naming the first of `parts` whose port another process listens on, and what would help."""
    parts = [name for part in parts for name in (part, f"{part}-metrics") if wanted.get(name)]
    for part in parts:
        port = wanted[part]
        if is_taken(port):
            raise CommandError(
                f"port {port}, which {part} needs, is taken by another process (`lsof -i :{port}` names it); "
                f"stop that, or set {_way_out(part, environ)}"
            )


def _way_out(part: str, environ: Mapping[str, str]) -> str:
    """The variable, with a value that helps."""
    if part in _OWN_VARIABLE and environ.get(_variable(part)):
        return f"{_variable(part)} to another port"
    offset = _number(environ, OFFSET_VARIABLE, 0)
    for further in range(offset + _STEP, _LAST_PORT - max(DEFAULTS.values()), _STEP):
        if not any(is_taken(default + further) for default in DEFAULTS.values()):
            return f"{OFFSET_VARIABLE}={further} to move every port"
    return f"{OFFSET_VARIABLE} to move every port"


def port_of(text: str) -> int:
    """For an argument of a command line. Raises `ValueError`."""
    port = int(text)
    if not 1 <= port <= _LAST_PORT:
        raise ValueError
    return port


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As the services do: connections of a stack that just ended, still in TIME_WAIT, are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise CommandError(f"port {port} cannot be used: {error.strerror}") from error
    with socket.socket() as probe:
        # macOS lets a specific address be bound below a listener on all addresses.
        return probe.connect_ex((HOST, port)) == 0


def find_free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
