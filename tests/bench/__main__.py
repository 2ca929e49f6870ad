"""`python tests/bench` measures the stack: CPU per request, latency, memory, start; `python tests/bench overload` what
becomes of it when more is asked of it than it can do, and what a refusal costs; `python tests/bench metrics` what
metrics add to a request, and `python tests/bench tracing` what tracing does. See docs/scaling.md.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from bench import cli, metrics, overload, tracing  # noqa: E402  # found through the line above

if __name__ == "__main__":
    if sys.argv[1:2] == ["overload"]:
        overload.main(sys.argv[2:])
    elif sys.argv[1:2] == ["metrics"]:
        metrics.main()
    elif sys.argv[1:2] == ["tracing"]:
        tracing.main()
    else:
        cli.main()
