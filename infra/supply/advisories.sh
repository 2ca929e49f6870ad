#!/bin/sh
# advisories.sh [ARGUMENTS OF uv audit]: known vulnerabilities of what uv.lock holds, by OSV. Found: exit status 1.
# Where OSV cannot be asked this says so and passes, so that `check` works without a network;
# SPILLWAY_ADVISORIES=required, as CI has it, makes that a failure.
set -eu
status=0
report=$(UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=20 \
  uv audit --frozen --no-progress --preview-features audit-command "$@" 2>&1) || status=$?
case $status in
  0) exit 0 ;;
  2) ;; # uv's own status for what kept it from asking
  *)
    printf '%s\n' "$report" >&2
    exit "$status"
    ;;
esac
reason=$(printf '%s\n' "$report" | tail -n 1)
echo "advisories: not looked up: ${reason#*cause: }" >&2
[ "${SPILLWAY_ADVISORIES-}" != required ] || exit 2
