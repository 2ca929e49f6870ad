"""`jobs`: what an operator does about jobs, through the gateway's `/admin/jobs`."""

from __future__ import annotations

import json
import os
import urllib.parse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from devstack import env_file, local_http
from devstack.errors import CommandError
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from devstack.local_http import Answer

_METHODS = {"show": ("GET", ""), "cancel": ("PUT", "/cancel"), "retry": ("PUT", "/retry"), "purge": ("DELETE", "")}


def run(action: str, job_id: str | None, *, state: str, tenant: str | None) -> None:
    """Do one thing and print what came of it. Raises `CommandError` with the gateway's own words."""
    if action == "list":
        asked = {"state": state, "limit": "100", **({"tenant": tenant} if tenant else {})}
        _print(_ask("GET", f"?{urllib.parse.urlencode(asked)}").json())
        return
    if job_id is None:
        raise CommandError(f"{action} needs a job's id; ./justw jobs list shows them")
    method, path = _METHODS[action]
    answer = _ask(method, f"/{urllib.parse.quote(job_id, safe='')}{path}")
    print(json.dumps(answer.json(), indent=2) if answer.body else f"{job_id} purged")


def _ask(method: str, path: str) -> Answer:
    stack = env_file.read(LocalDir.from_environ(os.environ).dev_env)
    url = os.environ.get("SPILLWAY_URL") or stack.get("SPILLWAY_URL")
    key = os.environ.get("SPILLWAY_ADMIN_KEY") or stack.get("SPILLWAY_ADMIN_KEY")
    if not url or not key:
        raise CommandError("no stack is running; start one with ./justw up, or set SPILLWAY_URL and SPILLWAY_ADMIN_KEY")
    try:
        answer = local_http.request(
            f"{url}/admin/jobs{path}", method=method, headers={"authorization": f"Bearer {key}"}
        )
    except local_http.UnreachableError as error:
        raise CommandError(f"{url} cannot be reached: {error}") from error
    if answer.status >= 400:  # noqa: PLR2004  # the class of errors
        raise CommandError(_told(answer))
    return answer


def _told(answer: Answer) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"the gateway answers with status {answer.status}"


def _print(page: dict[str, Any]) -> None:
    for job in page["data"]:
        at = datetime.fromtimestamp(job["created_at"], UTC).isoformat(timespec="seconds")
        print(
            f"{job['id']}  {job['state']:9}  {job['tenant']:16}  {job['attempts']}  {at}  {job['code'] or ''}".rstrip()
        )
    if page["has_more"]:
        print("…")
    counts = page["counts"]
    print(", ".join(f"{counts[name]} {name}" for name in ("queued", "running", "delayed", "final", "dead")))
    print(f"{counts['bytes'] / 1024:.0f} KiB of {counts['max_bytes'] / 1024:.0f} KiB")
