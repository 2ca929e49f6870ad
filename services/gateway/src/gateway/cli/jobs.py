"""`jobs`: what an operator does about jobs. Nobody sees what a tenant sent or got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.cli.admin_api import AdminApi
from gateway.cli.printing import table
from gateway.cli.verbs import add_verb, asking, verbs_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_COLUMNS = ("id", "state", "tenant", "attempts", "created_at", "code")
_STATES = ("dead", "open", "all", "queued", "running", "delayed", "succeeded", "failed", "cancelled", "expired")
_PAGE = 100
_KIB = 1024


def add(noun: argparse.ArgumentParser) -> None:
    verbs = verbs_of(noun)
    listed = add_verb(verbs, "list", "list jobs, the newest first, and how many there are", _list, _show_list)
    listed.add_argument("--state", choices=_STATES, default="dead", help="dead letters, if nothing else is named")
    listed.add_argument("--tenant")
    listed.add_argument("--limit", type=int, default=_PAGE, metavar="N", help=f"at most so many ({_PAGE})")
    for verb in (
        add_verb(verbs, "show", "show a job's record", asking("GET", "jobs/{id}")),
        add_verb(verbs, "cancel", "cancel a job, running or not", asking("PUT", "jobs/{id}/cancel")),
        add_verb(verbs, "retry", "run a dead letter again, as a new job", asking("PUT", "jobs/{id}/retry")),
        add_verb(
            verbs, "purge", "remove a dead letter", asking("DELETE", "jobs/{id}"),
            lambda _, options: f"{options.id} purged",
        ),
    ):  # fmt: skip
        verb.add_argument("id", help="job_…")


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    """Page by page, as far as was asked: the last page with the jobs of all of them."""
    api = AdminApi.from_environment(environ)
    params = {"state": options.state} | ({"tenant": options.tenant} if options.tenant else {})
    found: list[Any] = []
    while True:
        page = api.ask("GET", "jobs", params=params | {"limit": min(_PAGE, options.limit - len(found))})
        found += page["data"]
        if not page["has_more"] or len(found) >= options.limit:
            return page | {"data": found}
        params["after"] = page["last_id"]


def _show_list(found: Any, options: argparse.Namespace) -> str:
    counts = found["counts"]
    whose = f" of {options.tenant}" if options.tenant else ""
    what = {"dead": "no dead letters", "all": "no jobs"}.get(options.state, f"no {options.state} jobs")
    lines = [table(found["data"], _COLUMNS, empty=f"{what}{whose}")]
    if found["has_more"]:
        lines.append(f"there are more: --limit {2 * options.limit}")
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("queued", "running", "delayed", "final", "dead"))
    used = f"{counts['bytes'] / _KIB:.0f} of {counts['max_bytes'] / _KIB:.0f} KiB"
    return "\n".join((*lines, f"all tenants: {numbers}; {used}"))
