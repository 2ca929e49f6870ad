"""Builds images and runs them with whichever of docker, podman and buildah is at hand."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from support.images import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_QUICK_S = 120
_STOP_S = 30


class Running:
    """A container whose process was started through a builder's own command."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603  # ours

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, *, innermost: bool) -> int:
        """SIGTERM, as a platform sends it; the exit status. `innermost`: the builder's command passes no signal on."""
        target = _innermost(self._process.pid) if innermost else self._process.pid
        os.kill(target, signal.SIGTERM)
        return self._process.wait(_STOP_S)

    def end(self) -> None:
        if not self.has_ended:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_S)


class Builder(Protocol):
    """What starts a container of an image, and looks into one."""

    name: str
    forwards_signals: bool

    def running(
        self, image: str, command: list[str], environment: Mapping[str, str], log: Path
    ) -> contextlib.AbstractContextManager[Running]: ...

    def python(self, image: str, script: str) -> str:
        """What the image's own Python prints, run as the image's own user."""
        ...


def at_hand() -> Builder | None:
    """The builder that `infra/images/build.sh` takes: BUILDER, or the first that works."""
    named = os.environ.get("BUILDER")
    for name in [named] if named else ["docker", "podman", "buildah"]:
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([name, "info"], capture_output=True, check=False, timeout=_QUICK_S).returncode == 0:  # noqa: S603  # one of the three
                return Buildah() if name == "buildah" else Engine(name)
    return None


def build(image: str, base: str) -> None:
    """As `just image` does. SPILLWAY_IMAGE_ARGS go to the builder: `--network host --pull-never`, say."""
    more = shlex.split(os.environ.get("SPILLWAY_IMAGE_ARGS", ""))
    command = ["sh", "infra/images/build.sh", image, "--build-arg", f"PYTHON_IMAGE={base}", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stdout + done.stderr


class Engine:
    """docker or podman. Runs as in production: read-only, no capability, nothing gained by a set-uid file."""

    forwards_signals = True

    def __init__(self, name: str) -> None:
        self.name = name
        hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        self._run = [name, "run", "--rm", "--network=host", *hardened]

    @contextlib.contextmanager
    def running(self, image: str, command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Running]:
        name = f"spillway-{uuid4().hex}"
        container = Running([*self._run, "--name", name, *_options(environment), image, *command], log)
        try:
            yield container
        finally:  # the engine runs it, not the command: that may be gone and the container not
            subprocess.run([self.name, "rm", "--force", name], capture_output=True, check=False, timeout=_QUICK_S)  # noqa: S603  # ours
            container.end()

    def python(self, image: str, script: str) -> str:
        return _told([*self._run, "--entrypoint=/app/bin/python", image, "-c", script])


class Buildah:
    """Builds and runs as root without an engine; BUILDAH_ISOLATION=chroot works even within a container."""

    name = "buildah"
    forwards_signals = False

    @contextlib.contextmanager
    def running(self, image: str, command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Running]:
        config = json.loads(_told(["buildah", "inspect", "--type", "image", image]))["OCIv1"]["config"]
        start = [*config["Entrypoint"], *(command or config["Cmd"])]  # `buildah run` starts neither by itself
        with self._container(image) as name:
            run = ["buildah", "run", "--network", "host", *_options(environment), name, "--", *start]
            container = Running(run, log)
            try:
                yield container
                assert self._written(name) == []
            finally:
                container.end()

    def python(self, image: str, script: str) -> str:
        with self._container(image) as name:
            return _told(["buildah", "run", name, "--", "/app/bin/python", "-c", script])

    @contextlib.contextmanager
    def _container(self, image: str) -> Iterator[str]:
        name = _told(["buildah", "from", "--pull-never", image])
        try:
            yield name
        finally:
            _told(["buildah", "rm", name])

    def _written(self, name: str) -> list[str]:
        """What belongs to the user whom services run as: nothing, unless one wrote it. A chroot is not read-only."""
        root = _told(["buildah", "mount", name])
        return _told(["find", root, "-xdev", "-uid", "65532"]).split()


def _options(environment: Mapping[str, str]) -> list[str]:
    return [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]


def _told(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_QUICK_S)  # noqa: S603  # ours
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _innermost(pid: int) -> int:
    """The last of a chain of processes that have one child each."""
    while children := [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]:
        pid = int(children[0])
    return pid


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()
