"""How long a run is, and with which chance: seconds in the suite, as long as the promise says under `./justw chaos`."""

from __future__ import annotations

import os
import random

IS_LONG = os.environ.get("SPILLWAY_CHAOS") == "long"


def times(short: int, long: int) -> int:
    return long if IS_LONG else short


def chance() -> random.Random:
    """Another one in each run; a failed test shows its seed, and `SPILLWAY_CHAOS_SEED` repeats it."""
    seed = int(os.environ.get("SPILLWAY_CHAOS_SEED") or random.randrange(2**32))  # noqa: S311  # a test's, no secret
    print(f"SPILLWAY_CHAOS_SEED={seed}")  # noqa: T201  # for the one who has to repeat it
    return random.Random(seed)  # noqa: S311  # as above
