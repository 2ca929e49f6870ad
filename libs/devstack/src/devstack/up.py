"""`up`: the whole stack on this machine, in the foreground."""

from __future__ import annotations

import os
import sys
import time

from devstack import credentials, env_file, local_dir, models, plan, ports, supervise, upstream
from devstack.errors import CommandError
from devstack.local_dir import LocalDir
from devstack.stores import STORES

_ANNOUNCER = "ready"


def run() -> None:
    """Start everything and stay until a signal.

    Raises `CommandError` before anything is started, or when a part gave up.
    """
    started = time.time()
    local = LocalDir.from_environ(os.environ)
    assigned = ports.assign(os.environ)
    with local_dir.claimed(local):
        ports_url = {name: plan.url(assigned[name]) for name in ("simulator", "gateway")}
        chosen = upstream.choose(os.environ, simulator_url=ports_url["simulator"], gateway_url=ports_url["gateway"])
        stack = plan.make(os.environ, local, assigned, credentials.load(local.secrets), chosen)
        ports.refuse_taken(assigned, [part.name for part in stack.parts], os.environ)
        if not chosen.is_simulator:
            chosen = upstream.check(chosen)
            stack = plan.make(os.environ, local, assigned, credentials.load(local.secrets), chosen)
        for store in STORES:
            local.store(store.name).mkdir(exist_ok=True)
        if chosen.is_simulator:
            local.models.write_text(models.render(os.environ, ports_url["simulator"]))
        local.dev_env.unlink(missing_ok=True)
        _write_stack_env(local, stack, chosen)
        try:
            announcer = plan.Part(_ANNOUNCER, _announce(stack, started))
            ended_well = supervise.run((*stack.parts, announcer), stack.environment, local.alive, plain=_ANNOUNCER)
        finally:
            local.stack_env.unlink(missing_ok=True)
    if not ended_well:
        raise CommandError("a part gave up, so the stack was stopped; its reason stands above")


def _announce(stack: plan.Plan, started: float) -> tuple[str, ...]:
    """Return a command that stays when it is done, because honcho stops everything when one part ends."""
    urls = [part.ready_url for part in stack.parts if part.ready_url]
    script = '"$@" || exit 2; exec tail -f /dev/null'
    return "sh", "-c", script, "sh", sys.executable, "-m", "devstack", "announce", str(started), *urls


def _write_stack_env(local: LocalDir, stack: plan.Plan, chosen: upstream.Upstream) -> None:
    """Leave what one more replica needs; the key of a real upstream stays in its owner's shell."""
    kept = dict(stack.environment)
    if not chosen.is_simulator:
        del kept[plan.UPSTREAM_KEY]
    env_file.write(local.stack_env, kept, about="The running stack's settings, for ./justw run")
