"""A caller who waits two seconds for an upstream that takes ten: nothing starts too late, nothing lives on."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from simulator.attempts import prompt_hash
from support import chaos
from support.platform import Platform, chat, eventually

pytestmark = [pytest.mark.chaos, pytest.mark.measured]
BUDGET_S = 2.0
STILL_ALIVE_S = 0.5
ON_THE_WIRE_S = 0.25
"""From the client's clock to the upstream's on a busy machine: a call that left in time may be read this much later."""
REQUESTS = chaos.times(30, 200)
AT_ONCE = chaos.times(10, 30)
"""Clients, servers and upstream share one interpreter here."""
SLOW = (
    ("[[sim ttft_ms=10000]]", False),
    ("[[sim ttft_ms=10000]]", True),
    ("[[sim itl_ms=500 tokens=20]]", False),
    ("[[sim itl_ms=500 tokens=20]]", True),
    ("[[sim ttft_ms=600 status=503]]", False),
    ("[[sim ttft_ms=600 status=503 retry_after=1]]", True),
)
"""Silent, talking all the time, and refusing so slowly that the retries come near the deadline."""


def test_nothing_starts_after_the_deadline_and_nothing_outlives_it(stack: Platform, prompt: str) -> None:
    before = (stack.last_attempt() or {"seq": 0})["seq"]
    sent: dict[str, float] = {}

    def ask(number: int) -> None:
        script, is_stream = SLOW[number % len(SLOW)]
        body = chat(f"{prompt} {number} {script}", stream=is_stream)
        sent[prompt_hash(body)] = time.monotonic()
        with contextlib.suppress(httpx2.RemoteProtocolError):  # a stream that is cut at the deadline, as it has to be
            assert http.post("/v1/chat/completions", json=body).status_code >= 503 or is_stream

    with (
        stack.http(**{"x-request-timeout-ms": f"{BUDGET_S * 1000:.0f}"}) as http,
        ThreadPoolExecutor(AT_ONCE) as clients,
    ):
        list(clients.map(ask, range(REQUESTS)))

    def when_all_have_ended() -> list[dict[str, Any]] | None:
        attempts = stack.attempts_after(before)
        return attempts if all(attempt["cancelled"] or attempt["finished"] for attempt in attempts) else None

    attempts = eventually(when_all_have_ended)
    assert {attempt["prompt"] for attempt in attempts} == set(sent)
    started_late = [one for one in attempts if one["received"] > sent[one["prompt"]] + BUDGET_S + ON_THE_WIRE_S]
    alive = [
        one
        for one in attempts
        if (one["cancelled"] or one["finished"]) > sent[one["prompt"]] + BUDGET_S + STILL_ALIVE_S
    ]
    print(f"{len(attempts)} attempts, {len(started_late)} started late, {len(alive)} alive half a second late")  # noqa: T201  # with -s
    assert started_late == []
    assert len(alive) <= 0.01 * len(attempts)
    assert max(one["number"] for one in attempts) <= 3
