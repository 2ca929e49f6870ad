"""A real Traefik with the configuration of `infra/compose/traefik`, but for addresses: in front of what a test runs."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import yaml

from support.compose import FOLDER
from support.platform import BOUND_S, eventually
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BINARY = os.environ.get("TRAEFIK_BIN", "")
WHY_SKIPPED = "TRAEFIK_BIN names no Traefik"
_STOP_S = 60


@dataclass(frozen=True)
class Edge:
    https_port: int
    http_port: int
    metrics_port: int
    static: Path
    """Its configuration, as `traefik healthcheck` wants it."""
    process: subprocess.Popen[bytes]

    @property
    def dynamic(self) -> Path:
        """The folder that is read again when it changes."""
        return self.static.parent / "dynamic"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    def client(self, key: str | None = None, **headers: str) -> httpx2.Client:
        """A client that takes any certificate: Traefik makes one for itself at each start."""
        authorization = {"authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(
            base_url=self.url, headers=authorization | headers, timeout=BOUND_S, verify=unchecked(), trust_env=False
        )


def unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def edge(
    folder: Path, servers: Sequence[str], *, traces_url: str | None = None, read_timeout: str | None = None
) -> Iterator[Edge]:
    """Run Traefik before `servers`; it is of use once the first of them is asked after its health and answers."""
    https_port, http_port, metrics_port = (free_port() for _ in range(3))
    ours = {
        '":8443"': f'"127.0.0.1:{https_port}"',
        '":8080"': f'"127.0.0.1:{http_port}"',
        '":9464"': f'"127.0.0.1:{metrics_port}"',
        "/etc/traefik/dynamic": str(folder / "dynamic"),
        "http://collector:4318": traces_url or "http://127.0.0.1:9",
    }
    if read_timeout is not None:
        ours["readTimeout: 60s"] = f"readTimeout: {read_timeout}"
    static = (FOLDER / "traefik" / "traefik.yaml").read_text()  # as text: Traefik reads what is committed
    for theirs, our in ours.items():
        assert static.count(theirs) == 1, theirs
        static = static.replace(theirs, our)
    dynamic = yaml.safe_load((FOLDER / "traefik" / "dynamic" / "gateway.yaml").read_text())
    dynamic["http"]["services"]["gateway"]["loadBalancer"]["servers"] = [{"url": url} for url in servers]
    (folder / "dynamic").mkdir()
    (folder / "dynamic" / "gateway.yaml").write_text(yaml.safe_dump(dynamic))
    (folder / "traefik.yaml").write_text(static)
    with (folder / "traefik.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # named by who runs the tests
            [BINARY, f"--configFile={folder / 'traefik.yaml'}"],
            env={"EDGE_HTTPS_PORT": str(https_port), "PATH": os.defpath},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    started = Edge(https_port, http_port, metrics_port, folder / "traefik.yaml", process)
    try:
        eventually(lambda: _serves(started), within_s=_STOP_S)
        yield started
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serves(started: Edge) -> bool:
    if started.process.poll() is not None:
        raise RuntimeError((started.static.parent / "traefik.log").read_text())
    try:
        with started.client() as client:
            return client.get("/health").is_success
    except httpx2.TransportError:
        return False
