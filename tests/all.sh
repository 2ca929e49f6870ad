#!/bin/sh
# all.sh CHECK PYTEST: everything that CI runs, CHECK (a command) and every test.
# Unit tests want a processor as CHECK does and care for no clock, so the two go side by side. The rest follows alone:
# it looks at processes and how long they take.
set -u
units=$(mktemp)
trap 'rm -f "$units"' EXIT
"$2" tests/unit tests/contract \
  --ignore=tests/unit/infra/k8s/test_sources.py --ignore=tests/unit/infra/k8s/test_rendered.py >"$units" 2>&1 &
sh -c "$1" || { kill $!; wait $!; exit 1; }
status=0
wait $! || status=$?
cat "$units"
"$2" tests/integration tests/e2e tests/chaos || status=$?
exit "$status"
