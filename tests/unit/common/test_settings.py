from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from cache.settings import Settings as CacheSettings
from common.settings import BadSettingsError, BaseUrl, ServiceSettings, load
from gateway.settings import Settings as GatewaySettings
from inference.settings import Settings as InferenceSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="THING_")

    port: int = Field(default=80, ge=1)
    secret: SecretStr = Field(min_length=16)


GOOD = {"THING_SECRET": "0123456789abcdef"}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_settings_are_read_from_prefixed_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, GOOD | {"THING_PORT": "81", "PORT": "82"})
    settings = load(Settings)
    assert (settings.port, settings.secret.get_secret_value()) == (81, "0123456789abcdef")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "THING_SECRET"),
        (GOOD | {"THING_PORT": "hunter2-port"}, "THING_PORT"),
        (GOOD | {"THING_PORT": "0"}, "THING_PORT"),
        (GOOD | {"THING_LOG_LEVEL": "hunter2-level"}, "THING_LOG_LEVEL"),
        (GOOD | {"THING_DRAIN_DELAY_S": "-1"}, "THING_DRAIN_DELAY_S"),
        ({"THING_SECRET": "hunter2-short"}, "THING_SECRET"),
    ],
)
def test_a_bad_value_names_its_variable_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    set_environment(monkeypatch, variables)
    with pytest.raises(BadSettingsError) as error:
        load(Settings)
    message = str(error.value)
    assert message.startswith(f"{named}: ")
    assert "\n" not in message
    assert "hunter2" not in message
    assert error.value.__suppress_context__  # else the traceback would repeat the value


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {"THING_PORT": "x", "THING_FLUSH_TIMEOUT_S": "x"})
    with pytest.raises(BadSettingsError) as error:
        load(Settings)
    assert {part.partition(":")[0] for part in str(error.value).split("; ")} == {
        "THING_PORT",
        "THING_FLUSH_TIMEOUT_S",
        "THING_SECRET",
    }


@pytest.mark.parametrize("grace_s", [43, 42])
def test_a_stop_whose_stages_do_not_fit_is_refused_and_the_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, grace_s: int
) -> None:
    set_environment(monkeypatch, GOOD | {"THING_TERMINATION_GRACE_S": str(grace_s)})
    with pytest.raises(BadSettingsError) as error:
        load(Settings)
    for variable in ("DRAIN_DELAY_S", "DRAIN_TIMEOUT_S", "FLUSH_TIMEOUT_S", "TERMINATION_GRACE_S"):
        assert f"THING_{variable}" in str(error.value)


def test_a_stop_whose_stages_fit_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, GOOD | {"THING_TERMINATION_GRACE_S": "43.1"})
    assert load(Settings).termination_grace_s == 43.1


class Linked(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LINKED_")

    port: int = 80
    other_url: BaseUrl


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://other:81", "http://other:81"),
        ("https://other.example/base", "https://other.example/base"),
        ("other-1a2b:10000", "http://other-1a2b:10000"),
    ],
)
def test_a_host_with_its_port_is_the_base_url_of_a_service(
    monkeypatch: pytest.MonkeyPatch, given: str, read: str
) -> None:
    set_environment(monkeypatch, {"LINKED_OTHER_URL": given})
    assert load(Linked).other_url == read


@pytest.mark.parametrize("given", ["", "other", "ftp://other:81", "other:81/base", ":81", "redis://other:81"])
def test_what_is_no_base_url_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    set_environment(monkeypatch, {"LINKED_OTHER_URL": given})
    with pytest.raises(BadSettingsError, match="LINKED_OTHER_URL"):
        load(Linked)


def test_settings_never_change_and_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, GOOD)
    settings = load(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]  # that is the point
    assert "0123456789abcdef" not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        (
            GatewaySettings,
            {
                "GATEWAY_STATE_URL",
                "GATEWAY_KEY_PEPPER",
                "GATEWAY_SEAL_SECRET",
                "GATEWAY_CACHE_HOP_SECRET",
                "GATEWAY_INFERENCE_HOP_SECRET",
            },
        ),
        (CacheSettings, {"CACHE_STORE_URL", "CACHE_HOP_SECRET"}),
        (InferenceSettings, {"INFERENCE_HOP_SECRET"}),  # then whom to ask: a catalogue or an upstream
    ],
)
def test_a_service_that_is_told_nothing_names_all_that_it_needs(
    settings: type[ServiceSettings], needed: set[str]
) -> None:
    with pytest.raises(BadSettingsError) as error:
        load(settings)
    assert {part.partition(":")[0] for part in str(error.value).split("; ")} == needed


@pytest.fixture
def secrets_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPILLWAY_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_secret_may_be_a_file_of_its_variables_name(secrets_dir: Path) -> None:
    (secrets_dir / "THING_SECRET").write_text("of-the-file-0123456\n")
    (secrets_dir / "THING_UNKNOWN").write_text("not ours")
    (secrets_dir / "folder").mkdir()
    assert load(Settings).secret.get_secret_value() == "of-the-file-0123456"


def test_what_the_environment_sets_counts_more_than_a_file(monkeypatch: pytest.MonkeyPatch, secrets_dir: Path) -> None:
    (secrets_dir / "THING_SECRET").write_text("of-the-file-0123456")
    set_environment(monkeypatch, GOOD)
    assert load(Settings).secret.get_secret_value() == GOOD["THING_SECRET"]


def test_a_secret_may_be_a_link_within_the_directory_as_kubernetes_mounts_it(secrets_dir: Path) -> None:
    (secrets_dir / "..data").mkdir()
    (secrets_dir / "..data" / "THING_SECRET").write_text("of-the-file-0123456")
    (secrets_dir / "THING_SECRET").symlink_to(Path("..data") / "THING_SECRET")
    assert load(Settings).secret.get_secret_value() == "of-the-file-0123456"


def test_a_directory_that_is_not_there_holds_no_secret(monkeypatch: pytest.MonkeyPatch, secrets_dir: Path) -> None:
    monkeypatch.setenv("SPILLWAY_SECRETS_DIR", str(secrets_dir / "gone"))
    with pytest.raises(BadSettingsError, match=r"^THING_SECRET: Field required$"):
        load(Settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hunter2", "^THING_SECRET: Value should have at least 16 items"),
        (b"\xff" * 20, '^SPILLWAY_SECRETS_DIR: error getting value for field "secret"'),
        (b"hunter2" * 10_000, "^SPILLWAY_SECRETS_DIR: THING_SECRET has more than 65536 bytes$"),
    ],
)
def test_a_bad_file_is_named_and_not_repeated(secrets_dir: Path, content: bytes, message: str) -> None:
    (secrets_dir / "THING_SECRET").write_bytes(content)
    with pytest.raises(BadSettingsError, match=message) as error:
        load(Settings)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["redis+sentinel://hunter2@a:26379/primary", "redis+cluster://hunter2@a:6379", "a:6379"]
)
def test_a_store_is_one_endpoint_and_what_is_none_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    set_environment(monkeypatch, {"CACHE_HOP_SECRET": "x" * 32, "CACHE_STORE_URL": url})
    with pytest.raises(BadSettingsError, match=r"^CACHE_STORE_URL: .*one endpoint") as error:
        load(CacheSettings)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["redis://:a-password@store:6379/0", "rediss://store:6380/0", "unix:///run/valkey.sock"]
)
def test_a_store_is_reached_plainly_by_tls_or_by_a_socket(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    set_environment(monkeypatch, {"CACHE_HOP_SECRET": "x" * 32, "CACHE_STORE_URL": url})
    assert load(CacheSettings).store_url.get_secret_value() == url
