from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from devstack import announce, plan, ports, upstream
from devstack.credentials import DEVELOPMENT_KEY
from devstack.local_dir import LocalDir

if TYPE_CHECKING:
    from devstack.plan import Plan

SECRETS = {
    "GATEWAY_KEY_PEPPER": "pepper",
    "GATEWAY_SEAL_SECRET": "seal",
    "GATEWAY_CACHE_HOP_SECRET": "cache-hop",
    "GATEWAY_INFERENCE_HOP_SECRET": "inference-hop",
    "GATEWAY_JOBS_HOP_SECRET": "jobs-hop",
    "GATEWAY_HOP_SECRET": "worker-hop",
    "JOBS_SEAL_SECRET": "jobs-seal",
    "GATEWAY_ADMIN_KEY": "admin",
    DEVELOPMENT_KEY: "sw_dev_1",
}


def make(**environ: str) -> Plan:
    chosen = upstream.choose(environ, simulator_url="http://127.0.0.1:8090", gateway_url="http://127.0.0.1:8080")
    return plan.make(environ, LocalDir(Path("/l")), ports.assign(environ), SECRETS, chosen)


def names(stack: Plan) -> set[str]:
    return {part.name for part in stack.parts}


def test_with_nothing_set_everything_is_started() -> None:
    stack = make()

    assert names(stack) == {
        *("valkey-state", "valkey-limits", "valkey-cache"),
        *("traces", "simulator", "inference", "cache", "jobs", "worker", "gateway"),
    }
    assert stack.environment["GATEWAY_STATE_URL"] == "redis://127.0.0.1:6391/0"
    assert stack.environment["GATEWAY_LIMITS_URL"] == "redis://127.0.0.1:6392/0"
    assert stack.environment["CACHE_STORE_URL"] == "redis://127.0.0.1:6393/0"
    assert stack.environment["GATEWAY_INFERENCE_URL"] == "http://127.0.0.1:8081"
    assert stack.environment["GATEWAY_CACHE_URL"] == "http://127.0.0.1:8082"
    assert stack.environment["GATEWAY_JOBS_URL"] == "http://127.0.0.1:8083"
    assert stack.environment["WORKER_GATEWAY_URL"] == "http://127.0.0.1:8080"
    assert stack.environment["INFERENCE_UPSTREAM_BASE_URL"] == "http://127.0.0.1:8090/v1"
    assert stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"
    assert stack.environment["GATEWAY_DEFAULT_MODEL"] == "sim-small"


def test_both_ends_of_a_hop_share_its_secret_and_no_other() -> None:
    environment = make().environment

    assert environment["CACHE_HOP_SECRET"] == environment["GATEWAY_CACHE_HOP_SECRET"] == "cache-hop"
    assert environment["INFERENCE_HOP_SECRET"] == environment["GATEWAY_INFERENCE_HOP_SECRET"] == "inference-hop"
    assert environment["JOBS_HOP_SECRET"] == environment["GATEWAY_JOBS_HOP_SECRET"] == "jobs-hop"
    assert environment["WORKER_GATEWAY_HOP_SECRET"] == environment["GATEWAY_HOP_SECRET"] == "worker-hop"


def test_jobs_and_its_worker_share_the_gateways_state_store_and_their_seal_secret() -> None:
    environment = make(GATEWAY_STATE_URL="redis://state.internal:6379/0").environment

    assert environment["JOBS_STATE_URL"] == environment["WORKER_STATE_URL"] == "redis://state.internal:6379/0"
    assert environment["JOBS_SEAL_SECRET"] == environment["WORKER_SEAL_SECRET"] == "jobs-seal"


def test_an_operator_who_replaces_a_hop_secret_replaces_it_at_both_ends() -> None:
    environment = make(GATEWAY_CACHE_HOP_SECRET="theirs").environment

    assert environment["CACHE_HOP_SECRET"] == environment["GATEWAY_CACHE_HOP_SECRET"] == "theirs"


def test_what_the_caller_set_wins_and_what_is_empty_counts_as_unset() -> None:
    environment = make(GATEWAY_DRAIN_TIMEOUT_S="9", GATEWAY_SEAL_SECRET="theirs", GATEWAY_DEFAULT_MODEL="").environment

    assert environment["GATEWAY_DRAIN_TIMEOUT_S"] == "9"
    assert environment["GATEWAY_SEAL_SECRET"] == "theirs"
    assert environment["GATEWAY_DEFAULT_MODEL"] == "sim-small"


def test_a_sourced_dev_env_of_another_stack_says_nothing_about_this_one() -> None:
    stack = make(SPILLWAY_CACHE_URL="http://127.0.0.1:9082", SPILLWAY_PORT_OFFSET="10")

    assert stack.environment["SPILLWAY_CACHE_URL"] == "http://127.0.0.1:8092"


def test_a_store_elsewhere_is_used_instead_of_an_embedded_one() -> None:
    stack = make(GATEWAY_STATE_URL="rediss://state.internal:6379/0")

    assert "valkey-state" not in names(stack)
    assert stack.environment["GATEWAY_STATE_URL"] == "rediss://state.internal:6379/0"


def test_a_collector_elsewhere_is_used_instead_of_the_receiver() -> None:
    stack = make(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")

    assert "traces" not in names(stack)
    assert "SPILLWAY_TRACES_URL" not in plan.client_environment(stack.environment)


def test_a_real_upstream_is_used_instead_of_the_simulator() -> None:
    stack = make(UPSTREAM_BASE_URL="http://gpu:8000/v1", UPSTREAM_API_KEY="k")

    assert "simulator" not in names(stack)
    assert stack.environment["INFERENCE_UPSTREAM_BASE_URL"] == "http://gpu:8000/v1"
    assert stack.environment["INFERENCE_UPSTREAM_API_KEY"] == "k"
    assert "SPILLWAY_SIMULATOR_URL" not in plan.client_environment(stack.environment)


def test_a_client_learns_the_names_that_the_official_sdk_reads() -> None:
    assert plan.client_environment(make().environment) == {
        "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1",
        "OPENAI_API_KEY": "sw_dev_1",
        "SPILLWAY_URL": "http://127.0.0.1:8080",
        "SPILLWAY_ADMIN_KEY": "admin",
        "SPILLWAY_INFERENCE_URL": "http://127.0.0.1:8081",
        "SPILLWAY_CACHE_URL": "http://127.0.0.1:8082",
        "SPILLWAY_SIMULATOR_URL": "http://127.0.0.1:8090",
        "SPILLWAY_TRACES_URL": "http://127.0.0.1:4318",
    }


def test_every_service_stops_within_what_the_stack_grants() -> None:
    environment = make().environment

    for service in ("GATEWAY", "INFERENCE", "CACHE", "JOBS", "WORKER"):
        stages = ("DRAIN_DELAY_S", "DRAIN_TIMEOUT_S", "FLUSH_TIMEOUT_S")
        assert sum(float(environment[f"{service}_{stage}"]) for stage in stages) < 3


def test_a_stack_with_the_simulator_has_a_catalogue_and_one_with_a_real_upstream_has_none() -> None:
    assert make().environment["INFERENCE_MODELS_FILE"] == "/l/models.yaml"
    assert make(INFERENCE_MODELS_FILE="/mine.yaml").environment["INFERENCE_MODELS_FILE"] == "/mine.yaml"
    assert "INFERENCE_MODELS_FILE" not in make(UPSTREAM_BASE_URL="http://model/v1").environment


def test_every_service_shows_its_metrics_and_up_says_where() -> None:
    environment = make(GATEWAY_METRICS_PORT="9999").environment

    ports_by_name = {name: environment[f"{name.upper()}_METRICS_PORT"] for name in plan.MEASURED}
    assert ports_by_name == {"gateway": "9999", "inference": "9465", "cache": "9466", "jobs": "9467", "worker": "9468"}
    shown = announce.banner(plan.client_environment(environment), environment, 1.0, LocalDir(Path("/l")))
    assert "http://127.0.0.1:PORT/metrics: gateway 9999, inference 9465, cache 9466, jobs 9467, worker 9468" in shown


def test_our_own_receiver_of_traces_is_sent_no_metrics_and_a_collector_elsewhere_is() -> None:
    assert make().environment["OTEL_METRICS_EXPORTER"] == "none"
    assert "OTEL_METRICS_EXPORTER" not in make(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318").environment


def test_a_page_of_metrics_can_be_left_out() -> None:
    assert make(CACHE_METRICS_PORT="0").environment["CACHE_METRICS_PORT"] == "0"
