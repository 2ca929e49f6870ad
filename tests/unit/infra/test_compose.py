"""What `infra/compose` names is real, its numbers nest, and its networks are the arrows of docs/architecture.md."""

from __future__ import annotations

import itertools
import os
import re
import runpy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

import cache.settings
import gateway.settings
import inference.settings
import jobs.settings
from common.http_client import KEEPALIVE_S
from common.server import PARTING_S
from common.settings import ServiceSettings, load
from devstack.stores import STORES
from inference import models_file
from simulator.settings import SimulatorSettings
from support import compose

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STACK = compose.load()
SERVICES: dict[str, Any] = STACK["services"]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway-1": gateway.settings.Settings,
    "gateway-2": gateway.settings.Settings,
    "inference-1": inference.settings.Settings,
    "inference-2": inference.settings.Settings,
    "cache": cache.settings.Settings,
    "jobs": jobs.settings.Settings,
    "worker": jobs.settings.WorkerSettings,
}
PORTS = {"gateway": 8080, "inference": 8081, "cache": 8082, "jobs": 8083, "simulator": 8090}
PORTS |= dict.fromkeys(("valkey-state", "valkey-limits", "valkey-cache"), 6379)
OF_OTHERS = re.compile(r"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT|SPILLWAY_(SECRETS_DIR|URL)")
METRICS_PORT = 9464
WITHOUT_A_CLIENT = {"collector", "jaeger"}
"""Their images hold nothing that could ask after their health."""
USERS = {"valkey-state": {"gateway", "jobs", "worker"}, "valkey-limits": {"gateway"}, "valkey-cache": {"cache"}}
"""docs/architecture.md, State."""
ARROWS = {
    ("traefik", "gateway"), ("gateway", "cache"), ("gateway", "inference"), ("gateway", "jobs"), ("worker", "gateway"),
    ("inference", "simulator"), ("collector", "jaeger"), ("grafana", "prometheus"), ("grafana", "jaeger"),
}  # fmt: skip
TRAEFIK = yaml.safe_load((compose.FOLDER / "traefik" / "traefik.yaml").read_text())


def part_of(service: str) -> str:
    """A replica's part: `gateway` for `gateway-1`."""
    return re.sub(r"-\d$", "", service)


def networks_of(part: str) -> set[str]:
    names = [name for name in SERVICES if part_of(name) == part]
    assert names, part
    assert len({frozenset(SERVICES[name].get("networks", ())) for name in names}) == 1
    return set(SERVICES[names[0]].get("networks", ()))


def neighbours(part: str) -> set[str]:
    """Who can reach it."""
    return {part_of(other) for other in SERVICES if networks_of(part_of(other)) & networks_of(part)} - {part}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, ServiceSettings]:
    """The settings of every service as its container reads them: its environment, and the files of its secrets."""
    runpy.run_path(str(compose.FOLDER / "make_secrets.py"))["make"](tmp_path)
    found = {}
    for name, settings in SETTINGS.items():
        with monkeypatch.context() as patch:
            prefix = str(settings.model_config["env_prefix"])
            for variable in [variable for variable in os.environ if variable.startswith(prefix)]:
                patch.delenv(variable)
            for variable, value in compose.environment_of(SERVICES[name]).items():
                patch.setenv(variable, value)
            patch.setenv("SPILLWAY_SECRETS_DIR", str(tmp_path / part_of(name)))
            found[name] = load(settings)
    return found


def test_every_service_is_there_and_those_that_are_released_without_a_gap_are_twice() -> None:
    assert [part_of(name) for name in SETTINGS] == [
        "gateway",
        "gateway",
        "inference",
        "inference",
        "cache",
        "jobs",
        "worker",
    ]
    assert set(SETTINGS) < set(SERVICES)
    for one, other in (("gateway-1", "gateway-2"), ("inference-1", "inference-2")):
        assert SERVICES[one] == SERVICES[other]


@pytest.mark.parametrize("name", [*SETTINGS, "simulator"])
def test_every_setting_is_one_of_the_service(name: str) -> None:
    settings: Any = SETTINGS.get(name, SimulatorSettings)
    prefix = settings.model_config["env_prefix"]
    unknown = {
        variable
        for variable in compose.environment_of(SERVICES[name])
        if not OF_OTHERS.fullmatch(variable)
        and not (variable.startswith(prefix) and variable.removeprefix(prefix).lower() in settings.model_fields)
    }
    assert unknown == set()


def test_every_secret_that_is_made_is_a_setting_of_who_mounts_it_and_no_other_mounts_it() -> None:
    places = itertools.chain(*runpy.run_path(str(compose.FOLDER / "make_secrets.py"))["SHARED"])
    made = {tuple(place.split("/")) for place in places}
    for part, name in made - {("grafana", "GRAFANA_ADMIN_PASSWORD")}:
        (settings,) = {SETTINGS[service] for service in SETTINGS if part_of(service) == part}
        assert name.removeprefix(str(settings.model_config["env_prefix"])).lower() in settings.model_fields
    for service, described in SERVICES.items():
        mounted = [volume for volume in described.get("volumes", ()) if "secrets-" in volume]
        if service != "secrets":
            assert mounted in ([], [f"secrets-{part_of(service)}:/run/secrets:ro"])
    assert {part for part, _ in made} == {
        name.removeprefix("secrets-") for name in STACK["volumes"] if name.startswith("secrets-")
    }
    assert (
        SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/secrets/GRAFANA_ADMIN_PASSWORD"
    )


def test_the_services_start_with_what_they_are_given(loaded: dict[str, ServiceSettings]) -> None:
    assert set(loaded) == set(SETTINGS)
    gateways = [settings for settings in loaded.values() if isinstance(settings, gateway.settings.Settings)]
    assert [settings.expected_replicas for settings in gateways] == [len(gateways)] * len(gateways)


def urls(settings: ServiceSettings) -> Iterator[str]:
    for name in settings.__class__.model_fields:
        value = getattr(settings, name)
        if name.endswith("_url") and value is not None:
            yield value.get_secret_value() if hasattr(value, "get_secret_value") else value


def test_every_url_names_a_service_that_can_be_reached_at_the_port_where_it_listens(
    loaded: dict[str, ServiceSettings],
) -> None:
    for name, settings in loaded.items():
        asked = [urlsplit(url) for url in urls(settings)]
        for url in asked:
            assert url.hostname in PORTS
            assert url.port == PORTS[url.hostname]
            assert networks_of(url.hostname) & networks_of(part_of(name)), (name, url.hostname)
        collector = urlsplit(compose.environment_of(SERVICES[name])["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
        assert (collector.hostname, collector.port) == ("collector", 4318)
        assert "collector" in neighbours(part_of(name))


def test_a_name_for_two_replicas_is_known_where_it_is_asked_for() -> None:
    for part, networks in {"gateway": ("services", "telemetry"), "inference": ("services", "telemetry")}.items():
        for service in (f"{part}-1", f"{part}-2"):
            for network in networks:
                assert SERVICES[service]["networks"][network] == {"aliases": [part]}


def test_services_listen_where_others_ask_and_serve_metrics_on_one_port(loaded: dict[str, ServiceSettings]) -> None:
    for name, settings in loaded.items():
        environment = compose.environment_of(SERVICES[name])
        prefix = settings.model_config["env_prefix"]
        assert settings.port == PORTS.get(part_of(name), 8084)
        # The images set …_HOST for the service that they are named after; the worker's is that of jobs.
        assert (settings.host == "0.0.0.0") == (name == "worker")  # noqa: S104  # within networks of its own
        assert environment[f"{prefix}METRICS_PORT"] == str(METRICS_PORT)
        assert environment[f"{prefix}METRICS_HOST"] == "0.0.0.0"  # noqa: S104
    assert TRAEFIK["entryPoints"]["metrics"]["address"] == f":{METRICS_PORT}"
    for file in ("otel-collector.yaml", "jaeger.yaml"):
        telemetry = yaml.safe_load((compose.FOLDER / file).read_text())["service"]["telemetry"]
        assert telemetry["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]["port"] == METRICS_PORT


def test_prometheus_reaches_every_page_that_it_reads() -> None:
    scraped = yaml.safe_load((compose.FOLDER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    asked = {target for job in scraped for page in job["static_configs"] for target in page["targets"]}
    assert asked == {f"{name}:{METRICS_PORT}" for name in (*SETTINGS, "traefik", "collector", "jaeger")}
    assert {part_of(target.split(":")[0]) for target in asked} <= neighbours("prometheus")


def test_the_networks_are_the_arrows_of_the_architecture() -> None:
    for one, other in ARROWS:
        assert other in neighbours(one), (one, other)
    for store, users in USERS.items():
        assert neighbours(store) == users
    assert neighbours("simulator") == {"inference"}
    assert neighbours("traefik") == {"gateway", "collector", "prometheus"}
    assert neighbours("secrets") == set()


def test_nothing_leaves_this_host_but_through_the_three_networks_that_say_so() -> None:
    open_ones = {name for name, described in STACK["networks"].items() if not described.get("internal")}
    assert open_ones == {"public", "upstream", "operators"}
    within = {name: {part_of(one) for one in SERVICES if name in networks_of(part_of(one))} for name in open_ones}
    assert within == {
        "public": {"traefik"},
        "upstream": {"inference", "simulator"},
        "operators": {"jaeger", "prometheus", "grafana"},
    }


def test_only_traefik_is_published_and_what_operators_look_at_to_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "traefik": ["443:8443", "80:8080"],
        "jaeger": ["127.0.0.1:16686:16686"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened_bounded_and_pinned(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"]
    assert service["restart"] == ("no" if name == "secrets" else "unless-stopped")
    assert re.fullmatch(r"[a-z0-9/.-]+:(dev|v?\d+\.\d+\.\d+(-alpine)?)", service["image"])
    assert ("healthcheck" in service) == (name not in WITHOUT_A_CLIENT | {"secrets"})
    # Our own images run as 65532; of the others each says who it is. `secrets` alone is root: new volumes are root's.
    assert service.get("user", "65532:65532").split(":")[0] != "0" or name == "secrets"
    assert "user" in service or service["image"].startswith("spillway-")


@pytest.mark.parametrize("name", [*SETTINGS, "simulator"])
def test_an_image_of_ours_is_built_from_the_dockerfile_of_its_name(name: str) -> None:
    service = SERVICES[name]
    image = service["image"].removeprefix("spillway-").removesuffix(":dev")
    dockerfile = compose.FOLDER / service["build"]["context"] / service["build"]["dockerfile"]
    assert dockerfile.is_file()
    assert dockerfile.parent.name == image == {"worker": "jobs"}.get(name, part_of(name))


@pytest.mark.parametrize("name", [*SETTINGS, "simulator"])
def test_health_is_asked_where_the_service_listens(name: str) -> None:
    asked = SERVICES[name]["healthcheck"]["test"]
    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)'", asked[-1]).groups()  # type: ignore[union-attr]
    assert asked[:3] == ["CMD", "/app/bin/python", "-c"]
    assert int(port) == PORTS.get(part_of(name), 8084)
    assert path == ("/health" if name == "simulator" else "/readyz")
    compile(asked[-1], "healthcheck", "exec")


def test_the_stages_of_a_stop_nest_from_the_service_to_the_edge(loaded: dict[str, ServiceSettings]) -> None:
    for name, settings in loaded.items():
        stages_s = settings.drain_delay_s + settings.drain_timeout_s + settings.flush_timeout_s
        assert stages_s < settings.termination_grace_s <= compose.seconds(SERVICES[name]["stop_grace_period"])
    served = loaded["gateway-1"]
    cycle = TRAEFIK["entryPoints"]["websecure"]["transport"]["lifeCycle"]
    edge_s = compose.seconds(cycle["graceTimeOut"])
    assert served.drain_delay_s + served.drain_timeout_s < edge_s
    assert edge_s < compose.seconds(SERVICES["traefik"]["stop_grace_period"])
    check = edge_routes()["http"]["services"]["gateway"]["loadBalancer"]["healthCheck"]
    assert compose.seconds(check["interval"]) + compose.seconds(check["timeout"]) < served.drain_delay_s


def test_the_time_limits_and_bounds_of_the_edge_nest_with_the_gateways(loaded: dict[str, ServiceSettings]) -> None:
    served = loaded["gateway-1"]
    assert isinstance(served, gateway.settings.Settings)
    timeouts = TRAEFIK["entryPoints"]["websecure"]["transport"]["respondingTimeouts"]
    assert compose.seconds(timeouts["readTimeout"]) > served.body_timeout_s
    assert compose.seconds(timeouts["writeTimeout"]) == 0
    forwarding = TRAEFIK["serversTransport"]["forwardingTimeouts"]
    assert compose.seconds(forwarding["idleConnTimeout"]) <= KEEPALIVE_S < PARTING_S
    assert compose.seconds(forwarding["responseHeaderTimeout"]) == 0
    assert list(served.trusted_proxies) == [STACK["networks"]["edge"]["ipam"]["config"][0]["subnet"]]


def edge_routes() -> Any:
    return yaml.safe_load((compose.FOLDER / "traefik" / "dynamic" / "gateway.yaml").read_text())


@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_a_store_keeps_the_promise_that_it_keeps_on_a_laptop(store: Any) -> None:
    words = SERVICES[f"valkey-{store.name}"]["command"].split()
    given = dict(zip(words[1::2], words[2::2], strict=True))
    wanted = dict(zip(store.policy[::2], store.policy[1::2], strict=True)) | {"--maxmemory": given["--maxmemory"]}
    assert given == wanted | {"--protected-mode": "no", "--save": "''"}
    limit_mb = int(SERVICES[f"valkey-{store.name}"]["mem_limit"].removesuffix("m"))
    forks = given["--appendonly"] == "yes"  # rewriting its log, it may need its memory twice
    assert int(given["--maxmemory"].removesuffix("mb")) * (2 if forks else 1.25) <= limit_mb
    assert any(volume.endswith(":/data") for volume in SERVICES[f"valkey-{store.name}"].get("volumes", ())) == forks


def test_jobs_and_kept_answers_leave_room_for_keys_in_the_state_store(loaded: dict[str, ServiceSettings]) -> None:
    store_bytes = 768 * 2**20
    assert "--maxmemory 768mb" in SERVICES["valkey-state"]["command"]
    kept, queued = loaded["gateway-1"], loaded["jobs"]
    assert isinstance(kept, gateway.settings.Settings)
    assert isinstance(queued, jobs.settings.Settings)
    assert kept.idempotency_total_bytes < store_bytes / 2
    assert queued.max_bytes + kept.idempotency_total_bytes < store_bytes * 0.8


@pytest.mark.parametrize(
    ("variables", "file", "host"),
    [
        ({}, "models.yaml", "simulator"),
        ({"OPENAI_API_KEY": "sk-given"}, "models.openai.yaml", "api.openai.com"),
        ({"OPENAI_API_KEY": "sk-given", "MODELS_FILE": "models.yaml"}, "models.yaml", "simulator"),
    ],
)
def test_the_key_of_an_upstream_switches_the_catalogue_and_the_default_model(
    variables: dict[str, str], file: str, host: str
) -> None:
    services = compose.load(variables)["services"]
    assert services["inference-1"]["environment"]["INFERENCE_MODELS_FILE"] == f"/etc/spillway/{file}"
    assert "./models:/etc/spillway:ro" in services["inference-1"]["volumes"]
    catalogue = models_file.read((compose.FOLDER / "models" / file).read_bytes(), file)
    hosts = {urlsplit(str(target.base_url)).hostname for model in catalogue.models.values() for target in model.targets}
    assert hosts == {host}
    if "MODELS_FILE" not in variables:
        default = compose.environment_of(services["gateway-1"])["GATEWAY_DEFAULT_MODEL"]
        assert default in catalogue.models
    assert services["secrets"]["environment"]["OPENAI_API_KEY"] == variables.get("OPENAI_API_KEY", "")
    assert [name for name, one in services.items() if "sk-given" in str(one)] == (["secrets"] if variables else [])


def test_the_env_example_names_each_variable_of_the_file_with_its_default() -> None:
    text = (compose.FOLDER / "compose.yaml").read_text()
    used: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{([A-Z_]+)(?::-([^{}]*))?", text):
        used.setdefault(name, set()).update({default} - {""})
    used["MODELS_FILE"] = set()  # its default is in the comment: it depends
    shown = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", (compose.FOLDER / ".env.example").read_text()))
    assert {name: {value} - {""} for name, value in shown.items()} == used


def mounts(service: Mapping[str, Any]) -> Iterator[str]:
    return (volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("./"))


@pytest.mark.parametrize("name", [name for name in SERVICES if list(mounts(SERVICES[name]))])
def test_what_is_mounted_from_this_folder_is_there_and_read_only(name: str) -> None:
    for path in mounts(SERVICES[name]):
        assert (compose.FOLDER / path).exists(), path
    assert all(volume.endswith(":ro") for volume in SERVICES[name]["volumes"] if volume.startswith("./"))


def test_spans_go_from_the_services_through_the_collector_to_jaeger() -> None:
    collector = yaml.safe_load((compose.FOLDER / "otel-collector.yaml").read_text())
    jaeger = yaml.safe_load((compose.FOLDER / "jaeger.yaml").read_text())
    assert collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    assert TRAEFIK["tracing"]["otlp"]["http"]["endpoint"] == "http://collector:4318/v1/traces"
    (exporter,) = collector["service"]["pipelines"]["traces"]["exporters"]
    assert collector["exporters"][exporter]["endpoint"] == "jaeger:4317"
    assert jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    assert collector["service"]["pipelines"]["traces"]["processors"] == ["memory_limiter", "tail_sampling"]
    limit_mib = collector["processors"]["memory_limiter"]["limit_mib"]
    assert limit_mib < int(SERVICES["collector"]["mem_limit"].removesuffix("m"))


def test_of_the_traces_errors_slow_and_refused_ones_are_kept_and_a_share_of_the_rest() -> None:
    collector = yaml.safe_load((compose.FOLDER / "otel-collector.yaml").read_text())
    policies = {
        policy["name"]: policy[policy["type"]] for policy in collector["processors"]["tail_sampling"]["policies"]
    }
    assert policies["errors"] == {"status_codes": ["ERROR"]}
    assert policies["slow"]["threshold_ms"] == 10_000
    refused = policies["refused"]
    assert (refused["key"], refused["min_value"], refused["max_value"]) == ("http.response.status_code", 429, 429)
    assert policies["share-of-the-rest"] == {"sampling_percentage": "${env:TRACES_KEPT_PERCENT}"}
    assert SERVICES["collector"]["environment"]["TRACES_KEPT_PERCENT"] == "10"
