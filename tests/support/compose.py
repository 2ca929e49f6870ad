"""Reads `infra/compose/compose.yaml` as Compose does: anchors merged, variables filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "compose"
_INNERMOST = re.compile(r"\$\{([A-Z_]+)(?:(:[-+])([^${}]*))?\}")


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:+instead}`, nested ones from within."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        known = variables.get(name, "")
        return (word if known else "") if operator == ":+" else known or word or ""

    while (after := _INNERMOST.sub(value, text)) != text:
        text = after
    return text


def load(variables: Mapping[str, str] | None = None) -> Any:
    return yaml.safe_load(filled_in((FOLDER / "compose.yaml").read_text(), variables or {}))


def environment_of(service: Mapping[str, Any]) -> dict[str, str]:
    """What a container of it gets, its `env_file` included. Every value has to be text already."""
    environment: dict[str, str] = {}
    if "env_file" in service:
        lines = (FOLDER / service["env_file"]).read_text().splitlines()
        environment |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    environment |= service.get("environment", {})
    assert all(isinstance(value, str) for value in environment.values()), environment
    return environment


def seconds(duration: str) -> float:
    """`60s`, `1m` and `1m30s` as Compose and Traefik write them."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
