"""Settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from simulator.directive import Behaviour
from simulator.settings import BadSettingsError, SimulatorSettings, load


def test_the_defaults_are_an_instant_simulator_on_the_local_port() -> None:
    settings = SimulatorSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8090)
    assert settings.models == ("sim-small", "sim-large", "sim-embed")
    assert settings.behaviour() == Behaviour(tokens=20)


def test_models_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATOR_MODELS", "one, two,")
    assert load().models == ("one", "two")


def test_the_keys_of_the_directive_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATOR_TTFT_MS", "300")
    monkeypatch.setenv("SIMULATOR_HOW", "stall")
    assert load().behaviour() == Behaviour(ttft_ms=300, how="stall")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("TOKENS", "0"), ("MODELS", ","), ("DIMENSIONS", "1e9"), ("MAX_ATTEMPTS_LOGGED", "0")],
)
def test_a_bad_setting_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SIMULATOR_{name}", value)
    with pytest.raises(BadSettingsError, match=f"^SIMULATOR_{name}: [^\n]+$"):
        load()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        SimulatorSettings().port = 1  # type: ignore[misc]  # that this is refused is the test
