"""`python -m inference` serves the inference service."""

from common.server import run
from inference.app import create_app
from inference.settings import Settings

if __name__ == "__main__":
    run("inference", Settings, create_app)
