from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devstack import models
from inference.models_file import read
from inference.named_secrets import NamedSecrets

if TYPE_CHECKING:
    from inference.catalogue import Catalogue

EXAMPLE = Path(__file__).parents[3] / "docs/models/simulator.yaml"
URL = "http://127.0.0.1:8090"


def rendered(**environ: str) -> Catalogue:
    return read(models.render(environ, URL).encode(), "models.yaml", NamedSecrets(environ))


def test_the_stacks_catalogue_is_the_one_that_the_documentation_shows() -> None:
    assert rendered() == read(EXAMPLE.read_bytes(), "simulator.yaml")


def test_every_model_of_the_simulator_is_there_with_an_invented_price() -> None:
    catalogue = rendered(SIMULATOR_MODELS="sim-large, mine,")
    assert set(catalogue.models) == {"sim-large", "mine"}
    assert all(model.price for model in catalogue.models.values())
    assert catalogue.models["sim-large"].fallback == ()
    assert "INVENTED" in models.render({}, URL)


@pytest.mark.parametrize(("key", "named"), [("", None), ("sk-1", "SIMULATOR_API_KEY")])
def test_a_simulator_that_wants_a_key_is_shown_one_by_the_name_of_its_secret(key: str, named: str | None) -> None:
    (target,) = rendered(SIMULATOR_API_KEY=key).models["sim-small"].targets
    assert target.api_key == named
    assert "sk-1" not in models.render({"SIMULATOR_API_KEY": key}, URL)
