# ./justw <recipe> needs nothing but Python 3.11: it brings `just` and `uv` along.

set positional-arguments

export UV_PROJECT_ENVIRONMENT := justfile_directory() / ".venv"
export PYTHONDONTWRITEBYTECODE := ""

bin := justfile_directory() / ".venv/bin"
python := bin / "python"

# Talk to the stack of this checkout unless the shell names another.
local_env := env("SPILLWAY_LOCAL_DIR", ".local") / "dev.env"
local_stack := "[ -n \"${SPILLWAY_ADMIN_KEY:-}\" ] || [ ! -r '" + local_env + "' ] || . '" + absolute_path(local_env) + "'"

[private]
default:
    @'{{ just_executable() }}' --justfile '{{ justfile() }}' --list --unsorted

# Install the locked dependencies into .venv (0.2 s when they are there)
[group('stack')]
@setup:
    uv sync --frozen --quiet --compile-bytecode

# Start everything on this machine: no Docker, no API key; Ctrl-C stops it
[group('stack')]
[no-exit-message]
@up: setup
    exec '{{ python }}' -m devstack up

# Stop a running stack
[group('stack')]
[no-exit-message]
@down: setup
    '{{ python }}' -m devstack down

# Remove the stack's data and secrets
[group('stack')]
[no-exit-message]
@reset: setup
    '{{ python }}' -m devstack reset

# See a cache hit, a stream, retries, a job and their traces
[group('stack')]
[no-exit-message]
@demo: setup
    '{{ python }}' -m devstack demo

# Start one more replica of a service beside the running stack (--port N)
[group('stack')]
[no-exit-message]
@run *service: setup
    exec '{{ python }}' -m devstack run "$@"

# Print the trace of the last request, or of the one with this id, as a tree
[group('stack')]
[no-exit-message]
@trace *id: setup
    '{{ python }}' -m devstack trace "$@"

# API keys: create, list, show, change, rotate, disable, enable, delete, hash
[group('admin')]
[no-exit-message]
@keys *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli keys "$@"

# Tenants: list, show, set, delete
[group('admin')]
[no-exit-message]
@tenants *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli tenants "$@"

# What was used, by day, tenant, key and model: list
[group('admin')]
[no-exit-message]
@usage *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli usage "$@"

# Who changed which key or tenant: list
[group('admin')]
[no-exit-message]
@audit *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli audit "$@"

# See what the cache holds (stats), or purge it by --tenant, --model or --older-than-s
[group('admin')]
[no-exit-message]
@cache *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli cache "$@"

# Look after jobs: list, show, cancel, retry, purge (dead letters)
[group('admin')]
[no-exit-message]
@jobs *args: setup
    {{ local_stack }}; exec '{{ python }}' -m gateway.cli jobs "$@"

# Everything CI runs: check and every test; arguments are for pytest instead
[group('quality')]
test *args: setup
    [ $# -eq 0 ] || exec '{{ bin }}/pytest' "$@"; \
    '{{ python }}' tests/stages.py "'{{ just_executable() }}' --justfile '{{ justfile() }}' check"

# Lint, types, boundaries, lock, manifests, advisories: no test
[group('quality')]
check: lint types boundaries locked images-lint manifests rules platforms-lint advisories

# Format the code and this file
[group('quality')]
fmt: setup
    '{{ bin }}/ruff' check --fix-only --quiet && '{{ bin }}/ruff' format
    '{{ just_executable() }}' --justfile '{{ justfile() }}' --fmt

# Lint rules and formatting
[group('quality')]
lint: setup
    '{{ bin }}/ruff' check && '{{ bin }}/ruff' format --check
    '{{ just_executable() }}' --justfile '{{ justfile() }}' --fmt --check

# Types, strictly
[group('quality')]
types: setup
    '{{ bin }}/mypy' libs/*/src services/*/src tests

# Who may import whom
[group('quality')]
boundaries: setup
    '{{ bin }}/lint-imports'

# The lock is that of the manifests
[private]
locked:
    uv lock --check

# The Dockerfiles follow hadolint's rules
[private]
images-lint: setup
    '{{ bin }}/hadolint' services/*/Dockerfile libs/simulator/Dockerfile

# The YAML of infra: tidy, as Compose's specification wants it, and what Kubernetes would say to it (skips what needs
# kubectl or kustomize where neither is)
[private]
manifests: setup
    '{{ bin }}/yamllint' --strict infra docs/models
    '{{ bin }}/check-jsonschema' --quiet --builtin-schema vendor.compose-spec infra/compose/compose.yaml
    '{{ bin }}/pytest' -q -p no:randomly tests/unit/infra/k8s/test_sources.py tests/unit/infra/k8s/test_rendered.py

# The workflows and what Render and Fly read fit their schemas
[private]
platforms-lint: setup
    '{{ bin }}/yamllint' --strict .github
    '{{ bin }}/check-jsonschema' --quiet --builtin-schema vendor.github-workflows .github/workflows/*
    '{{ bin }}/check-jsonschema' --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
    '{{ bin }}/zizmor' --offline --quiet .github
    '{{ bin }}/check-jsonschema' --quiet --schemafile infra/render/schema.json infra/render/render.yaml
    '{{ bin }}/check-jsonschema' --quiet --schemafile infra/fly/schema.json infra/fly/*.toml

# Known vulnerabilities of what is locked; without a network it says so and passes
[group('quality')]
advisories *args:
    @sh infra/supply/advisories.sh "$@"

# Write the services' contracts; `openapi docs/openapi/released` at a release
[group('quality')]
openapi *directory: setup
    '{{ python }}' -m devstack openapi "${1:-docs/openapi}"

# Write Grafana's dashboards (infra/compose/grafana/dashboards)
[group('quality')]
dashboards: setup
    '{{ python }}' -m devstack dashboards infra/compose/grafana/dashboards

# Prometheus' rules and the tests of its alerts, where promtool is installed
[group('quality')]
rules:
    command -v promtool || { echo 'promtool is not installed (Debian: prometheus): the rules are not checked'; exit 0; }; \
    promtool check config infra/compose/prometheus/prometheus.yml && promtool test rules infra/compose/prometheus/rules/tests/*.yml

# Judge a catalogue (models check FILE), or print its JSON Schema (models schema)
[group('quality')]
[no-exit-message]
@models *args: setup
    '{{ python }}' -m inference.models "$@"

# Measure the stack (tests/bench); `bench overload`, `bench jobs`, `bench metrics`
[group('measure')]
@bench *args: setup
    lane=tests/bench; [ "${1:-}" != jobs ] || { shift; lane=tests/bench/jobs.py; }; '{{ python }}' "$lane" "$@"

# Cause every failure of the table in docs/architecture.md, as long as the promises say; `chaos jobs`: those of jobs
[group('measure')]
@chaos *args: setup
    [ "${1:-}" != jobs ] || { shift; set -- tests/chaos/test_jobs.py -s "$@"; }; \
    SPILLWAY_CHAOS=long '{{ bin }}/pytest' -m chaos "$@"

# What a load needs, and what is full first: --users, --think-s or --requests-per-s, --hit-ratio, --stream-share, …
[group('measure')]
[no-exit-message]
@capacity *args: setup
    '{{ python }}' -m devstack capacity "$@"

# Build the image of one service with BUILDER (docker, podman or buildah; else the first that works)
[group('deploy')]
image service *args:
    sh infra/images/build.sh "$@"

# Print the manifests of an overlay (local or production) for kubectl; needs kubectl or kustomize
[group('deploy')]
@k8s overlay="local":
    sh infra/k8s/render.sh {{ quote(overlay) }}

# Build and start every image, of the base SPILLWAY_IMAGE_BASE, and ask it
[group('deploy')]
images *args: setup
    '{{ bin }}/pytest' -m e2e tests/e2e/test_images.py "$@"

# Write dist/<service>.cdx.json: what an image holds, as CycloneDX (without a name: of each)
[group('deploy')]
@sbom *service:
    sh infra/supply/sbom.sh "$@"
