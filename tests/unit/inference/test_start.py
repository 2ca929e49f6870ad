from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from common.settings import BadSettingsError
from inference.__main__ import checked_app
from inference.settings import Settings
from support.catalogue import ONE_TARGET

if TYPE_CHECKING:
    from pathlib import Path

HOP_SECRET = SecretStr("0123456789abcdef0123456789abcdef")


def test_a_service_does_not_start_with_a_catalogue_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(ONE_TARGET.replace("version: 1", "version: 2"))
    with pytest.raises(BadSettingsError, match=r"^INFERENCE_MODELS_FILE: .*models\.yaml:1: version: "):
        checked_app(Settings(models_file=file, hop_secret=HOP_SECRET))
    file.write_text(ONE_TARGET)
    assert checked_app(Settings(models_file=file, hop_secret=HOP_SECRET))


def test_a_service_that_has_nobody_to_ask_says_what_it_could_be_told() -> None:
    with pytest.raises(ValueError, match=r"INFERENCE_MODELS_FILE, or INFERENCE_UPSTREAM_BASE_URL and"):
        Settings(hop_secret=HOP_SECRET)
