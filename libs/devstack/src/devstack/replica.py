"""`run`: one more replica of one service beside the running stack, in the foreground; it ends with the stack."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from devstack import env_file, local_dir, plan, ports, upstream
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from pathlib import Path

KILL_AFTER_S = 3
"""What the replica gets between SIGTERM and SIGKILL, as every part of the stack."""


def run(service: str, port: int | None) -> NoReturn:
    """Become the service, on `port` or a free one. Raises `CommandError` when no stack runs to be a replica beside."""
    local = LocalDir.from_environ(os.environ)
    stack = env_file.read(local.stack_env)
    if local_dir.running_pid(local) is None or not stack:
        raise CommandError("no stack is running; start one with ./justw up")
    if port is None:
        port = ports.find_free()
    elif ports.is_taken(port):
        raise CommandError(f"port {port} is taken")
    if service == "inference" and plan.UPSTREAM_KEY not in stack:
        stack[plan.UPSTREAM_KEY] = _upstream_key(stack)
    local_dir.join(local)
    _end_with(local.alive)
    print(f"{service}: {plan.url(port)}", flush=True)
    own_ports = {f"{service.upper()}_PORT": str(port), f"{service.upper()}_METRICS_PORT": str(ports.find_free())}
    environment = {**os.environ, **stack, **own_ports}
    os.execve(sys.executable, [sys.executable, "-m", plan.MODULES.get(service, service)], environment)  # noqa: S606  # the service itself, no shell


def _end_with(alive: Path) -> None:
    """Leave a child behind that stops this process once `up` is gone, in whatever way, and ends with it."""
    service = os.getpid()
    up = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    own_end, held = os.pipe()
    if os.fork():
        os.set_inheritable(held, True)  # it closes when the service ends  # noqa: FBT003  # the signature of os
        os.close(own_end)
        os.close(up)
        return
    os.close(held)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    select.select([up, own_end], [], [])
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        if os.getppid() == service:  # else it is gone, and its number may be another's
            os.kill(service, stop_signal)
            select.select([own_end], [], [], KILL_AFTER_S)
    os._exit(0)


def _upstream_key(stack: dict[str, str]) -> str:
    """Read the real upstream's key from this shell, as `up` did from its own: it is written nowhere."""
    gateway_url = plan.url(int(stack["GATEWAY_PORT"]))
    chosen = upstream.choose(os.environ, simulator_url="", gateway_url=gateway_url)
    if chosen.base_url != stack["INFERENCE_UPSTREAM_BASE_URL"]:
        raise CommandError("set UPSTREAM_BASE_URL and UPSTREAM_API_KEY here as they were set for ./justw up")
    return chosen.api_key
