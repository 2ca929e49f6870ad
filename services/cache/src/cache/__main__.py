"""`python -m cache` serves the cache service."""

from cache.app import create_app
from cache.settings import Settings
from common.server import run

if __name__ == "__main__":
    run("cache", Settings, create_app)
