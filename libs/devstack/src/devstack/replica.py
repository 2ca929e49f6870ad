"""`run`: one more replica of one service beside the running stack, in the foreground."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from devstack import env_file, local_dir, plan, ports, upstream
from devstack.errors import CommandError
from devstack.local_dir import LocalDir


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
    print(f"{service}: {plan.url(port)}", flush=True)
    own_ports = {f"{service.upper()}_PORT": str(port), f"{service.upper()}_METRICS_PORT": str(ports.find_free())}
    environment = {**os.environ, **stack, **own_ports}
    os.execve(sys.executable, [sys.executable, "-m", plan.MODULES.get(service, service)], environment)  # noqa: S606  # the service itself, no shell


def _upstream_key(stack: dict[str, str]) -> str:
    """Read the real upstream's key from this shell, as `up` did from its own: it is written nowhere."""
    gateway_url = plan.url(int(stack["GATEWAY_PORT"]))
    chosen = upstream.choose(os.environ, simulator_url="", gateway_url=gateway_url)
    if chosen.base_url != stack["INFERENCE_UPSTREAM_BASE_URL"]:
        raise CommandError("set UPSTREAM_BASE_URL and UPSTREAM_API_KEY here as they were set for ./justw up")
    return chosen.api_key
