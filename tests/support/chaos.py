"""How long a run is: seconds in the suite, and as long as the promise says under `./justw chaos`."""

from __future__ import annotations

import os

IS_LONG = os.environ.get("SPILLWAY_CHAOS") == "long"


def times(short: int, long: int) -> int:
    return long if IS_LONG else short
