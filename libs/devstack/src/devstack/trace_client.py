"""Fetches traces from the running stack's receiver; `trace` prints one."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from devstack import env_file, local_http, plan, ports, trace_tree
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from devstack.trace_tree import Tree

_POLL_S = 0.1
_DIGITS = 32
_ID = re.compile(f"[0-9a-f]{{1,{_DIGITS}}}")


def show(trace_id: str | None, *, attributes: bool = False) -> None:
    """Print the tree of a trace, of the last request if no id is given; the beginning of one is enough.

    Raises `CommandError` when there is none.
    """
    base_url = url(os.environ)
    trace_id = _last(base_url) if trace_id is None else _only(base_url, trace_id.lower())
    tree = fetch(base_url, trace_id)
    if not any(tree.walk()):
        raise CommandError(f"no spans of {trace_id} have arrived; they leave a service half a second after their end")
    print("\n".join(trace_tree.draw(trace_id, tree, attributes=attributes)))


def url(environ: Mapping[str, str]) -> str:
    """Return where the receiver listens: `SPILLWAY_TRACES_URL`, else the running stack's, else the default port."""
    stack = env_file.read(LocalDir.from_environ(environ).stack_env)
    name = "SPILLWAY_TRACES_URL"
    return environ.get(name) or stack.get(name) or plan.url(ports.assign(environ)["traces"])


def fetch(base_url: str, trace_id: str) -> Tree:
    """Return what has arrived of a trace, an empty tree for an unknown one."""
    return trace_tree.build(trace_tree.Span.from_json(span) for span in _get(f"{base_url}/traces/{trace_id}"))


def wait_for(base_url: str, trace_id: str, is_complete: Callable[[Tree], bool], timeout_s: float) -> Tree:
    """Poll until a trace is complete or the time is up, and return what has arrived by then."""
    deadline = time.monotonic() + timeout_s
    while True:
        tree = fetch(base_url, trace_id)
        if is_complete(tree) or time.monotonic() > deadline:
            return tree
        time.sleep(_POLL_S)


def _last(base_url: str) -> str:
    for trace in _get(f"{base_url}/traces"):
        if trace["kind"] == "server":  # a request, not our own background work, and its root has arrived: it is over
            return str(trace["trace_id"])
    raise CommandError("no trace has arrived yet: send a request first")


def _only(base_url: str, beginning: str) -> str:
    """The trace that begins so."""
    if _ID.fullmatch(beginning) is None:
        raise CommandError(
            f"{beginning!r} is no trace id: {_DIGITS} hexadecimal digits, as in x-trace-id, or the first of them"
        )
    if len(beginning) == _DIGITS:
        return beginning
    known = [trace["trace_id"] for trace in _get(f"{base_url}/traces")]
    found = [trace_id for trace_id in known if trace_id.startswith(beginning)]
    if len(found) != 1:
        raise CommandError(f"{len(found) or 'none'} of the last {len(known)} traces begins with {beginning}")
    return str(found[0])


def _get(url_: str) -> Any:
    try:
        answer = local_http.request(url_)
    except local_http.UnreachableError as error:
        raise CommandError(
            f"no trace receiver answers at {url_} ({error}): is the stack up, and without OTEL_EXPORTER_OTLP_ENDPOINT?"
        ) from error
    if answer.status != 200:  # noqa: PLR2004  # OK
        raise CommandError(f"{url_} answers with status {answer.status}: {answer.body.decode(errors='replace')[:200]}")
    return answer.json()
