"""How slow the machine is at this moment."""

from __future__ import annotations

import json
import time


def yardstick_ms() -> float:
    """CPU time of a fixed piece of pure Python, before and after each lane.

    A virtual machine's processor is twice as slow whenever a neighbour wants its other half, and no counter says so.
    """
    started = time.process_time()
    for _ in range(20):
        json.loads(json.dumps({str(number): [number] * 10 for number in range(500)}))
    return (time.process_time() - started) * 1000
