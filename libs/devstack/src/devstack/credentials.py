"""Secrets of one checkout: random, made once, kept over restarts in a file that only its owner reads."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from devstack import env_file

if TYPE_CHECKING:
    from pathlib import Path

DEVELOPMENT_KEY = "SPILLWAY_DEVELOPMENT_KEY"
RANDOM = (
    "GATEWAY_KEY_PEPPER",
    "GATEWAY_SEAL_SECRET",
    "GATEWAY_CACHE_HOP_SECRET",
    "GATEWAY_INFERENCE_HOP_SECRET",
    "GATEWAY_JOBS_HOP_SECRET",
    "GATEWAY_HOP_SECRET",
    "JOBS_SEAL_SECRET",
    "GATEWAY_ADMIN_KEY",
)


def load(path: Path) -> dict[str, str]:
    """Return every secret by its variable; the ones that are missing are made and written."""
    known = env_file.read(path)
    made = {name: secrets.token_urlsafe(32) for name in RANDOM if name not in known}
    if DEVELOPMENT_KEY not in known:
        from gateway.access.keys import generate_key  # noqa: PLC0415  # once per checkout; `up` stays small

        made[DEVELOPMENT_KEY] = generate_key(environment="dev").text
    if made:
        env_file.write(
            path, known | made, about="Secrets of this checkout's development stack, made at its first start"
        )
    return known | made
