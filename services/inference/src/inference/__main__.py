"""`python -m inference` serves the inference service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.server import run
from common.settings import BadSettingsError
from inference.app import create_app
from inference.live_catalogue import read_file
from inference.models_file import BadCatalogueError
from inference.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.metrics import Meter


def checked_app(settings: Settings, *, meter: Meter | None = None) -> FastAPI:
    """Raises `BadSettingsError` for a catalogue that cannot be used, as for any other setting."""
    if settings.models_file is not None:
        try:
            read_file(settings.models_file, settings.named_secrets())
        except BadCatalogueError as error:
            raise BadSettingsError(f"INFERENCE_MODELS_FILE: {error}") from None
    return create_app(settings, meter=meter)


if __name__ == "__main__":
    run("inference", Settings, checked_app)
