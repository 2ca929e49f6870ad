"""Runs the load generator (`load.py`) as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.stack import keeping_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.stack import Cores


def drive(order: Mapping[str, Any], cores: Cores | None = None) -> dict[str, Any]:
    """What it saw of this order, whose fields are those of `load.Order`."""
    generator = subprocess.run(  # noqa: S603  # our own
        [sys.executable, str(Path(__file__).with_name("load.py"))],
        input=json.dumps(order).encode(), stdout=subprocess.PIPE, check=True,
        preexec_fn=keeping_to(None if cores is None else cores.others),
    )  # fmt: skip
    load: dict[str, Any] = json.loads(generator.stdout)
    return load
