"""A service that is told to stop, as a process, seen by clients that keep their connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import simulator.app
from common import http_client, server
from common.identity import HopIdentity
from common.settings import ServiceSettings
from simulator.settings import SimulatorSettings
from support.load import SIGNER
from support.platform import BOUND_S, SECRETS, chat, eventually
from support.ports import free_port
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_START_S = 40
_STOP_S = 20


class Inference:
    """The one service that needs no store: it is the same frame around each."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=BOUND_S)

    def terminate(self) -> None:
        """Returns once it has noticed."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.closing(self.connect()) as probe:
            eventually(lambda: get(probe, "/readyz").status == 503)

    def has_closed_its_listener(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) != 0

    def status(self) -> int:
        return self._process.wait(_STOP_S)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with running(simulator.app.create_app(SimulatorSettings()), lifespan="off") as url:
        yield url


@pytest.fixture
def inference(upstream: str) -> Iterator[Callable[..., Inference]]:
    with contextlib.ExitStack() as stack:

        def start(**settings: float) -> Inference:
            port = free_port()
            known = {"port": port, "hop_secret": SECRETS["inference_hop_secret"], "upstream_api_key": "sk-none"}
            known |= {"upstream_base_url": f"{upstream}/v1", "max_lag_s": 60, "drain_timeout_s": 10}
            variables = {f"INFERENCE_{name.upper()}": str(value) for name, value in (known | settings).items()}
            process = subprocess.Popen(
                [sys.executable, "-m", "inference"], env={**os.environ, **variables}, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            service = Inference(process, port)
            eventually(lambda: not service.has_closed_its_listener(), within_s=_START_S)
            return service

        yield start


def get(connection: http.client.HTTPConnection, path: str = "/v1/models") -> http.client.HTTPResponse:
    connection.request("GET", path, headers={"authorization": SIGNER.authorization(HopIdentity("alice", "k"))})
    answer = connection.getresponse()
    answer.read()
    return answer


def begin_stream(connection: http.client.HTTPConnection, directive: str) -> http.client.HTTPResponse:
    headers = {"authorization": SIGNER.authorization(HopIdentity("alice", "k")), "content-type": "application/json"}
    body = json.dumps(chat(f"Count. [[sim {directive}]]", stream=True))
    connection.request("POST", "/v1/chat/completions", body, headers)
    return connection.getresponse()


def test_who_is_told_to_stop_serves_on_and_lets_each_client_go_with_its_answer(
    inference: Callable[..., Inference],
) -> None:
    service = inference(drain_delay_s=3)
    with contextlib.closing(service.connect()) as kept:
        before = get(kept)
        assert (before.status, before.getheader("connection")) == (200, None)
        service.terminate()
        after = get(kept)
        assert (after.status, after.getheader("connection")) == (200, "close")
        with contextlib.closing(service.connect()) as new:
            late = get(new)
            assert (late.status, late.getheader("connection")) == (200, "close")
    assert service.status() in (0, -signal.SIGTERM)


def test_a_stream_that_outlives_the_delay_ends_whole_and_its_connection_is_not_closed_under_the_next_request(
    inference: Callable[..., Inference],
) -> None:
    service = inference(drain_delay_s=1.5)
    with contextlib.closing(service.connect()) as kept, contextlib.closing(service.connect()) as prober:
        stream = begin_stream(kept, "tokens=20 itl_ms=200")
        assert stream.getheader("connection") is None
        service.terminate()
        # Who keeps asking whether it is ready is let go too: a prober holds up no stop.
        eventually(lambda: get(prober, "/readyz").getheader("connection") == "close")
        assert service.has_closed_its_listener()
        body = stream.read()
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b'"content"') >= 20
        after = get(kept)
        assert (after.status, after.getheader("connection")) == (200, "close")
    assert service.status() in (0, -signal.SIGTERM)


def test_an_idle_connection_holds_up_no_stop(inference: Callable[..., Inference]) -> None:
    service = inference(drain_delay_s=0)
    with contextlib.closing(service.connect()) as used, contextlib.closing(service.connect()) as unused:
        get(used)
        unused.connect()
        service._process.send_signal(signal.SIGTERM)
        assert service.status() in (0, -signal.SIGTERM)  # within less than the 75 s of a kept connection


def test_a_client_lets_go_before_a_server_that_leaves_and_that_before_the_delay_is_over() -> None:
    delay_s = ServiceSettings.model_fields["drain_delay_s"].default
    assert http_client.KEEPALIVE_S < server.PARTING_S < delay_s < server.KEEPALIVE_S
