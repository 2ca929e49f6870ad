"""What Render and Fly read: each name is real, each service would start with what it is given, and stops nest."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.health import PATHS
from common.settings import ServiceSettings, load
from support.hosting import IMAGES, ROOT, SETTINGS, fly_apps, render_environments, render_services

if TYPE_CHECKING:
    from collections.abc import Mapping

FLY = fly_apps()
RENDER = render_services()
ON_RENDER = render_environments()
SECRETS = ROOT / "infra/fly/secrets.sh"
GIVEN = {
    "STATE_URL": "redis://default:pw@state:6379",
    "LIMITS_URL": "redis://default:pw@limits:6379",
    "CACHE_URL": "redis://default:pw@entries:6379",
    "UPSTREAM_API_KEY": "sk-given",
}
SHARED = [
    ("gateway", "inference_hop_secret", "inference", "hop_secret"),
    ("gateway", "cache_hop_secret", "cache", "hop_secret"),
    ("gateway", "jobs_hop_secret", "jobs", "hop_secret"),
    ("gateway", "hop_secret", "worker", "gateway_hop_secret"),
    ("jobs", "seal_secret", "worker", "seal_secret"),
    ("jobs", "state_url", "worker", "state_url"),
    ("gateway", "state_url", "jobs", "state_url"),
]
"""What two services have to hold alike."""


def loaded(environment: Mapping[str, str], service: str, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    """The settings as the service reads them at start, from this environment and no other."""
    prefix = str(SETTINGS[service].model_config.get("env_prefix"))
    for name in os.environ:
        if name.startswith(prefix):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load(SETTINGS[service])


def unknown(names: set[str], service: str, besides: set[str]) -> set[str]:
    prefix = str(SETTINGS[service].model_config.get("env_prefix"))
    return names - besides - {f"{prefix}{field.upper()}" for field in SETTINGS[service].model_fields}


def hand_out_secrets(folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Run `secrets.sh` with a `fly` that keeps what it is handed, one file an app."""
    fly = folder / "fly"
    fly.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'  "secrets list --app "*) cat "{folder}/$4" 2>/dev/null || true ;;\n'
        f'  "secrets import --stage --app "*) cat >"{folder}/$5" ;;\n'
        "  *) exit 9 ;;\nesac\n"
    )
    fly.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | given
    return subprocess.run(["sh", str(SECRETS)], env=environment, capture_output=True, text=True, check=False)  # noqa: S603, S607  # ours


@pytest.fixture(scope="module")
def on_fly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The environment of each app: what its file says, and the secrets that it was handed."""
    folder = tmp_path_factory.mktemp("fly")
    done = hand_out_secrets(folder, **GIVEN)
    assert done.returncode == 0, done.stderr
    return {
        name: app["env"] | dict(line.split("=", 1) for line in (folder / app["app"]).read_text().splitlines())
        for name, app in FLY.items()
    }


def test_each_service_has_its_place_on_both() -> None:
    assert set(FLY) == set(SETTINGS)
    stores = {name for name, service in RENDER.items() if service["type"] == "keyvalue"}
    assert set(RENDER) - stores == set(SETTINGS)
    assert len(stores) == 3


@pytest.mark.parametrize("service", SETTINGS)
def test_fly_each_variable_and_secret_is_a_setting(service: str, on_fly: dict[str, dict[str, str]]) -> None:
    assert unknown(set(on_fly[service]), service, set()) == set()


@pytest.mark.parametrize("service", SETTINGS)
def test_render_each_variable_is_a_setting_or_the_port_that_render_is_told(service: str) -> None:
    assert unknown(set(ON_RENDER[service]), service, {"PORT"}) == set()


@pytest.mark.parametrize("service", SETTINGS)
def test_fly_a_service_starts_with_what_it_is_given_and_is_reached_on_its_port(
    service: str, on_fly: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(on_fly[service], service, monkeypatch)
    app = FLY[service]
    assert settings.host == settings.metrics_host == "::"
    assert [page["port"] for page in app["metrics"]] == [settings.metrics_port]
    if "http_service" in app:
        assert app["http_service"]["internal_port"] == settings.port
        checks = app["http_service"]["checks"]
    else:
        checks = list(app["checks"].values())
        assert {check["port"] for check in checks} == {settings.port}
    assert {check["path"] for check in checks} <= set(PATHS)


@pytest.mark.parametrize("service", SETTINGS)
def test_render_a_service_starts_with_what_it_is_given_and_is_reached_on_its_port(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(ON_RENDER[service], service, monkeypatch)
    assert int(ON_RENDER[service].get("PORT", settings.port)) == settings.port
    assert ("PORT" in ON_RENDER[service]) == (RENDER[service]["type"] != "worker")
    assert RENDER[service].get("healthCheckPath", PATHS[0]) in PATHS


@pytest.mark.parametrize("service", SETTINGS)
def test_what_the_platform_grants_a_stop_holds_what_the_service_takes(
    service: str, on_fly: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = {"fly": FLY[service]["kill_timeout"], "render": RENDER[service]["maxShutdownDelaySeconds"]}
    assert FLY[service]["kill_signal"] == "SIGTERM"
    for platform, environment in {"fly": on_fly[service], "render": ON_RENDER[service]}.items():
        settings = loaded(environment, service, monkeypatch)
        stop_s = settings.drain_delay_s + settings.drain_timeout_s + settings.flush_timeout_s
        assert stop_s < settings.termination_grace_s <= granted[platform], platform


@pytest.mark.parametrize("platform", ["fly", "render"])
def test_two_services_that_need_the_same_secret_are_given_the_same(
    platform: str, on_fly: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = on_fly if platform == "fly" else ON_RENDER
    settings: dict[str, Any] = {name: loaded(environments[name], name, monkeypatch) for name in SETTINGS}
    for one, its, other, others in SHARED:
        assert getattr(settings[one], its) == getattr(settings[other], others), (one, its)
    hops = [settings["gateway"].model_dump()[f"{hop}hop_secret"] for hop in ("inference_", "cache_", "jobs_", "")]
    assert len({hop.get_secret_value() for hop in hops}) == len(hops)  # one secret per audience


def test_fly_a_private_address_is_that_of_an_app_and_its_port() -> None:
    ports = {app["app"]: SETTINGS[name].model_fields["port"].default for name, app in FLY.items()}
    named = [re.fullmatch(r"http://([a-z-]+)\.internal:(\d+)", value) for value in _urls(FLY)]
    assert len(named) == 4
    for address in named:
        assert address is not None
        assert ports[address[1]] == int(address[2])


def _urls(apps: dict[str, dict[str, Any]]) -> list[str]:
    urls = [value for app in apps.values() for name, value in app["env"].items() if name.endswith("_URL")]
    return [url for url in urls if "internal" in url]


@pytest.mark.parametrize("service", SETTINGS)
def test_the_image_is_the_service_s_own_and_the_command_a_module(service: str) -> None:
    dockerfile = ROOT / "services" / IMAGES[service] / "Dockerfile"
    assert (ROOT / "infra/fly" / FLY[service]["build"]["dockerfile"]).resolve() == dockerfile
    assert (ROOT / RENDER[service]["dockerfilePath"]).resolve() == dockerfile
    assert RENDER[service]["dockerContext"] == "."
    commands = [RENDER[service].get("dockerCommand"), *FLY[service].get("processes", {}).values()]
    assert commands == (["jobs.worker"] * 2 if service == "worker" else [None])
    assert importlib.util.find_spec("jobs.worker") is not None


def test_fly_the_proxy_stops_sending_before_the_gateway_refuses() -> None:
    limits = FLY["gateway"]["http_service"]["concurrency"]
    fields = SETTINGS["gateway"].model_fields
    assert limits["type"] == "requests"
    assert limits["soft_limit"] <= fields["max_concurrency"].default
    assert limits["hard_limit"] <= fields["max_requests"].default


def test_only_the_gateway_is_public() -> None:
    assert [name for name, app in FLY.items() if "http_service" in app or "services" in app] == ["gateway"]
    assert [name for name, service in RENDER.items() if service["type"] == "web"] == ["gateway"]
    assert all(service["ipAllowList"] == [] for service in RENDER.values() if service["type"] == "keyvalue")


def test_render_a_store_keeps_or_forgets_as_it_promises() -> None:
    stores = {"gateway": ("STATE_URL", "LIMITS_URL"), "cache": ("STORE_URL",), "worker": ("STATE_URL",)}
    policies = {
        name: RENDER[ON_RENDER[service][f"{service.upper()}_{name}"].split("/")[2].split(":")[0][len("spillway-") :]]
        for service, names in stores.items()
        for name in names
    }
    assert {name: store["maxmemoryPolicy"] for name, store in policies.items()} == {
        "STATE_URL": "noeviction",
        "LIMITS_URL": "noeviction",
        "STORE_URL": "allkeys-lfu",
    }


def test_secrets_are_handed_out_once_and_shown_to_nobody(tmp_path: Path) -> None:
    first = hand_out_secrets(tmp_path, **GIVEN)
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    kept = (tmp_path / "spillway-gateway").read_text()
    again = hand_out_secrets(tmp_path, **GIVEN)
    assert again.returncode == 1
    assert "already" in again.stderr
    assert (tmp_path / "spillway-gateway").read_text() == kept


@pytest.mark.parametrize("missing", GIVEN)
def test_secrets_are_not_handed_out_by_half(tmp_path: Path, missing: str) -> None:
    done = hand_out_secrets(tmp_path, **{name: value for name, value in GIVEN.items() if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr
    assert list(tmp_path.glob("spillway-*")) == []


MISTAKES = {
    "fly/gateway.toml": [
        ("kill_timeout = 300", "kill_timout = 300"),
        ("kill_timeout = 300", "kill_timeout = 301"),
        ("force_https = true", ""),
    ],
    "fly/worker.toml": [("[checks.readyz]", "[check.readyz]"), ('policy = "always"', 'policy = "sometimes"')],
    "render/render.yaml": [
        ("healthCheckPath", "healthcheckPath"),
        ("maxShutdownDelaySeconds: 300", "maxShutdownDelaySeconds: 301"),
        ("ipAllowList: []", ""),
        ("{type: pserv, name: spillway-jobs, property: hostport}", "{name: spillway-jobs}"),
    ],
}


@pytest.mark.parametrize("manifest", MISTAKES)
def test_the_schemas_take_what_is_there_and_refuse_a_mistake(tmp_path: Path, manifest: str) -> None:
    good = ROOT / "infra" / manifest
    text = good.read_text()
    bad = []
    for number, (right, wrong) in enumerate(MISTAKES[manifest]):
        assert right in text
        bad.append(tmp_path / f"{number}{good.suffix}")
        bad[-1].write_text(text.replace(right, wrong, 1))
    check = [str(Path(sys.executable).parent / "check-jsonschema"), "--output-format", "json", "--schemafile"]
    command = [*check, str(good.parent / "schema.json"), str(good), *map(str, bad)]
    told = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)  # noqa: S603  # ours
    assert {error["filename"] for error in told["errors"]} == set(map(str, bad))
    assert told["parse_errors"] == []
