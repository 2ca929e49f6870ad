"""Prompts, completions, keys and secrets are in no log line, whatever goes wrong."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from typing import TYPE_CHECKING

import httpx2
import pytest

from common.telemetry import logs
from support.platform import ADMIN_KEY, SECRETS, UPSTREAM_KEY, Platform, chat

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "canary-4f1d9c"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the services' own logging writes, down to the debug level; pytest's handlers come back afterwards."""
    root = logging.getLogger()
    names = ("httpx2", "httpcore2", "openai", "aiohttp", "asyncio", "uvicorn.access", "uvicorn", "uvicorn.error")
    loggers = [root, *map(logging.getLogger, names)]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    written = io.StringIO()
    logs.configure("platform", "debug", written)
    (handler,) = root.handlers
    yield written
    handler.close()
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def written_to(logged: io.StringIO) -> str:
    logging.getLogger().handlers[0].flush()
    return logged.getvalue()


def test_nothing_secret_is_logged(stack: Platform, logged: io.StringIO) -> None:
    completions = []
    bad_key = stack.key[:-1] + ("0" if stack.key[-1] != "0" else "1")
    unknown_key = "sw_live_" + "0" * 16 + "_" + "a" * 64
    with stack.http() as http:
        for directive in (
            "",
            "[[sim status=400]]",
            "[[sim status=500]]",
            "[[sim how=fin]]",
            "[[sim how=html cut_after=1]]",
            "[[sim how=end cut_after=2]]",
            "[[sim how=error cut_after=3 itl_ms=5]]",
            "[[sim how=garbage cut_after=3 itl_ms=5]]",
            "[[sim nonsense]]",
        ):
            completions.append(http.post("/v1/chat/completions", json=chat(f"{CANARY} {directive}")))
            with http.stream("POST", "/v1/chat/completions", json=chat(f"{CANARY} {directive}", stream=True)) as stream:
                read_to_its_end(stream)
        http.post("/v1/embeddings", json={"model": "sim-embed", "input": CANARY})
        http.post("/generate", json={"prompt": CANARY, "model": f"model-{CANARY}" * 3, "user": CANARY})
        http.post(f"/v1/chat/completions?key={CANARY}", json=chat(CANARY, temperature=CANARY))
        http.post("/v1/chat/completions", content=f'{{"{CANARY}": {CANARY}')
        http.get("/v1/models", headers={"x-own": CANARY, "cookie": CANARY})
        for key in (bad_key, unknown_key, CANARY, ADMIN_KEY):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 401
        http.get(f"/admin/keys?admin_key={ADMIN_KEY}", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    written = written_to(logged)
    lines = [json.loads(line) for line in written.splitlines()]
    assert len([line for line in lines if line["message"] == "request"]) > 40
    assert "Traceback" not in written
    answer = completions[0].json()["choices"][0]["message"]["content"]
    for secret in (answer, stack.key, bad_key, unknown_key, ADMIN_KEY, UPSTREAM_KEY, *SECRETS.values()):
        assert secret not in written
    # The one field of a request that a log line names is its model, when the upstream was asked for it.
    assert CANARY not in "\n".join(line for line in written.splitlines() if f"model-{CANARY}" not in line)


def read_to_its_end(stream: httpx2.Response) -> None:
    with contextlib.suppress(httpx2.RemoteProtocolError):  # an abnormal one is as good here
        stream.read()
