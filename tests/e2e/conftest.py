from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

from devstack import env_file, plan, ports
from e2e.up_process import UP, UpProcess, free_offset
from support.traffic import MOST_REQUESTS, Traffic, models_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """The whole stack, started once. A test that stops or breaks it for good starts its own `UpProcess`."""
    with UpProcess(
        tmp_path_factory.mktemp("stack") / "local",
        GATEWAY_CACHE_TIMEOUT_S="0.5",  # a busy machine's cache answers later than 50 ms, and its hits were misses
        INFERENCE_CAPTURE_CONTENT="True",  # which without a key's consent captures nothing
    ) as up:
        yield up


@dataclass(frozen=True)
class Measured:
    """A stack of its own to which everything has happened, or will."""

    urls: dict[str, str]
    pages: dict[str, int]
    """The port of each service's metrics."""
    traffic: Traffic
    traces_url: str


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """Limits low enough that `traffic.everything()` reaches them."""
    directory = tmp_path_factory.mktemp("measured")
    offset = free_offset()
    models = directory / "models.yaml"
    models.write_text(models_yaml(f"http://{ports.HOST}:{ports.DEFAULTS['simulator'] + offset}"))
    settings = {
        "INFERENCE_MODELS_FILE": str(models),
        "GATEWAY_MAX_REQUESTS": str(MOST_REQUESTS),
        "GATEWAY_MAX_CONCURRENCY": str(MOST_REQUESTS // 2),
        "JOBS_MAX_ATTEMPTS": "1",
        "WORKER_CONCURRENCY": "1",
    }
    with UpProcess(directory / "local", offset, UP, **settings) as up:
        known = up.client | env_file.read(up.local / "stack.env")
        yield Measured(
            {name: plan.url(int(known[f"{name.upper()}_PORT"])) for name in plan.MEASURED},
            {name: int(known[f"{name.upper()}_METRICS_PORT"]) for name in plan.MEASURED},
            Traffic(
                known["SPILLWAY_URL"], known["OPENAI_API_KEY"], known["SPILLWAY_ADMIN_KEY"], known["GATEWAY_LIMITS_URL"]
            ),
            known["SPILLWAY_TRACES_URL"],
        )


@pytest.fixture
def client(stack: UpProcess) -> Iterator[OpenAI]:
    """The official SDK with what dev.env says, and no retries that would hide a failure."""
    known = stack.client
    with OpenAI(base_url=known["OPENAI_BASE_URL"], api_key=known["OPENAI_API_KEY"], max_retries=0) as client:
        yield client
