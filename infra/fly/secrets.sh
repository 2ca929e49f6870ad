#!/bin/sh
# secrets.sh: makes the secrets of all five apps at random and hands them to Fly, staged until the next deploy.
# Reads STATE_URL, LIMITS_URL and CACHE_URL (redis:// URLs) and UPSTREAM_API_KEY from the environment.
# Once only: new secrets make every API key, sealed job and cached answer worthless. One secret: docs/operations.md.
set -eu
: "${STATE_URL:?}" "${LIMITS_URL:?}" "${CACHE_URL:?}" "${UPSTREAM_API_KEY:?}"

listed=$(fly secrets list --app spillway-gateway) # a list that fails ends this: it says nothing of what is there
if echo "$listed" | grep -q GATEWAY_KEY_PEPPER; then
  echo "secrets: spillway-gateway has its secrets already" >&2
  exit 1
fi

random() {
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# Values go through a pipe: what stands on a command line is seen by every process.
hand_over() {
  fly secrets import --stage --app "spillway-$1"
}

inference=$(random) cache=$(random) jobs=$(random) gateway=$(random) seal=$(random)

hand_over gateway <<END
GATEWAY_STATE_URL=$STATE_URL
GATEWAY_LIMITS_URL=$LIMITS_URL
GATEWAY_KEY_PEPPER=$(random)
GATEWAY_SEAL_SECRET=$(random)
GATEWAY_ADMIN_KEY=$(random)
GATEWAY_INFERENCE_HOP_SECRET=$inference
GATEWAY_CACHE_HOP_SECRET=$cache
GATEWAY_JOBS_HOP_SECRET=$jobs
GATEWAY_HOP_SECRET=$gateway
END
hand_over inference <<END
INFERENCE_UPSTREAM_API_KEY=$UPSTREAM_API_KEY
INFERENCE_HOP_SECRET=$inference
END
hand_over cache <<END
CACHE_STORE_URL=$CACHE_URL
CACHE_HOP_SECRET=$cache
END
hand_over jobs <<END
JOBS_STATE_URL=$STATE_URL
JOBS_SEAL_SECRET=$seal
JOBS_HOP_SECRET=$jobs
END
hand_over worker <<END
WORKER_STATE_URL=$STATE_URL
WORKER_SEAL_SECRET=$seal
WORKER_GATEWAY_HOP_SECRET=$gateway
END
