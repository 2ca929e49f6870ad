"""`python -m jobs` serves the API of the jobs service."""

from common.server import run
from jobs.app import create_app
from jobs.settings import Settings

if __name__ == "__main__":
    run("jobs", Settings, create_app)
