"""Makes the secrets of the Compose stack: one file each, named as the variable that it stands for.

    make_secrets.py DIRECTORY                     makes what is missing; what is there stays
    make_secrets.py DIRECTORY SERVICE/NAME <file  takes this one from standard input instead, for all who share it

`DIRECTORY` holds a folder for each service, which mounts its own and no other. It needs nothing but Python.
"""

import os
import secrets
import sys
from pathlib import Path

SHARED = (
    ("gateway/GATEWAY_KEY_PEPPER",),
    ("gateway/GATEWAY_SEAL_SECRET",),
    ("gateway/GATEWAY_ADMIN_KEY",),
    ("gateway/GATEWAY_CACHE_HOP_SECRET", "cache/CACHE_HOP_SECRET"),
    ("gateway/GATEWAY_INFERENCE_HOP_SECRET", "inference/INFERENCE_HOP_SECRET"),
    ("gateway/GATEWAY_JOBS_HOP_SECRET", "jobs/JOBS_HOP_SECRET"),
    ("gateway/GATEWAY_HOP_SECRET", "worker/WORKER_GATEWAY_HOP_SECRET"),
    ("jobs/JOBS_SEAL_SECRET", "worker/WORKER_SEAL_SECRET"),
    ("grafana/GRAFANA_ADMIN_PASSWORD",),
)
"""The files that hold the same secret: both ends of a hop, the two processes of jobs."""
UPSTREAM_KEY = "inference/OPENAI_API_KEY"
OWN_KEY_PREFIX = "sw_"


def make(directory: Path) -> list[str]:
    """Write what is missing, and return it."""
    made = []
    for places in SHARED:
        known = [directory / place for place in places if (directory / place).exists()]
        text = known[0].read_text() if known else secrets.token_urlsafe(32)
        for place in places:
            if not (directory / place).exists():
                write(directory / place, text)
                made.append(place)
    return made


def take(directory: Path, place: str, text: str) -> None:
    """Write one that somebody else made to all the places that share it."""
    for places in (*SHARED, (UPSTREAM_KEY,)):
        if place in places:
            for one in places:
                write(directory / one, text)
            return
    sys.exit(f"make_secrets: {place} is none of {', '.join(sorted(sum(SHARED, (UPSTREAM_KEY,))))}")


def write(file: Path, text: str) -> None:
    """At once, so that no reader sees a part. Readable for all: only its service's containers mount its folder."""
    if not text.strip():
        sys.exit(f"make_secrets: the value of {file.name} is empty")
    new = file.with_name(f".{file.name}")
    file.parent.mkdir(exist_ok=True)
    new.write_text(text)
    new.chmod(0o444)
    new.replace(file)


def main() -> None:
    directory = Path(sys.argv[1])
    key = os.environ.get("OPENAI_API_KEY", "")
    if key.startswith(OWN_KEY_PREFIX):
        sys.exit("make_secrets: OPENAI_API_KEY is a key of Spillway's own, not the upstream's; unset it")
    if len(sys.argv) > 2:  # noqa: PLR2004  # a place was named
        take(directory, sys.argv[2], sys.stdin.read())
        return
    made = make(directory)
    if key:
        take(directory, UPSTREAM_KEY, key)
    sys.stdout.write(f"made {', '.join(made) or 'nothing: every secret is there'}\n")


if __name__ == "__main__":
    main()
