"""`python tests/bench` measures the stack: CPU per request, latency, memory, start. See docs/scaling.md."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from bench.cli import main  # noqa: E402  # it is found through the line above

if __name__ == "__main__":
    main()
