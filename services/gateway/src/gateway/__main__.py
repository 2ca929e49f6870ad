"""`python -m gateway` serves the gateway."""

from common.server import run
from gateway.app import create_app, door_of
from gateway.settings import Settings

if __name__ == "__main__":
    run("gateway", Settings, create_app, door_of)
