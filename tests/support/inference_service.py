"""The inference service over a catalogue whose file a test rewrites."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic import SecretStr

import inference.app
from common.identity import HopIdentity
from inference.settings import Settings
from support.instruments import Instruments
from support.load import SIGNER
from support.platform import BOUND_S, SECRETS, TLS
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_S = 0.02


class Service:
    def __init__(self, url: str, file: Path, instruments: Instruments) -> None:
        self.url = url
        self.file = file
        self.instruments = instruments

    def becomes(self, text: str) -> None:
        """Exchange the catalogue's file, as a careful operator does: at once and whole."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.file)  # noqa: PTH105  # says what it is: atomic

    def get(self, path: str, **headers: str) -> httpx2.Response:
        authorization = {"authorization": SIGNER.authorization(HopIdentity("alice", "k"))}
        return httpx2.get(
            self.url + path, headers=authorization | headers, timeout=BOUND_S, verify=TLS, trust_env=False
        )

    def post(self, path: str, body: dict[str, Any], tenant: str = "alice", **headers: str) -> httpx2.Response:
        authorization = {"authorization": SIGNER.authorization(HopIdentity(tenant, "k"))}
        return httpx2.post(
            self.url + path, json=body, headers=authorization | headers, timeout=BOUND_S, verify=TLS, trust_env=False
        )

    def revision(self) -> str:
        revision: str = self.get("/v1/catalogue").json()["revision"]
        return revision


@contextlib.contextmanager
def inference_service(file: Path, text: str, **settings: Any) -> Iterator[Service]:
    file.write_text(text)
    of_service = Settings(
        models_file=file,
        models_poll_s=POLL_S,
        max_lag_s=60,  # the loop shares its process with load and upstreams: how late it is says nothing
        hop_secret=SecretStr(SECRETS["inference_hop_secret"]),
        **settings,
    )
    instruments = Instruments()
    with running(inference.app.create_app(of_service, meter=instruments.meter)) as url:
        yield Service(url, file, instruments)
