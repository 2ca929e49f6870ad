"""The catalogue that serves now, and how a new version of its file takes its place while requests go on.

The content is read every second (the file may be a link that a mount exchanges, whose times say nothing) and on SIGHUP.
A version that cannot be used is refused, logged and counted; the last good one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING

from common.background import end
from common.settings import BadSettingsError
from inference.models_file import BadCatalogueError, Problem, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from inference.catalogue import Catalogue
    from inference.named_secrets import NamedSecrets

logger = logging.getLogger(__name__)
_PROBLEMS_LOGGED = 5


def read_file(path: Path, secrets: NamedSecrets | None = None) -> Catalogue:
    """Raises `BadCatalogueError`, also for a file that cannot be read."""
    return read(_content(path), str(path), secrets)


class LiveCatalogue:
    def __init__(self, path: Path, secrets: NamedSecrets, *, poll_s: float) -> None:
        """Read the first version. Raises `BadSettingsError`: without one good version there is nothing to serve."""
        self.reloads = 0
        """Versions that took another's place."""
        self.refused = 0
        """Versions that could not be used."""
        self.secrets = secrets
        self._path = path
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._seen: object = None
        try:
            content = _content(path)
            self.current = read(content, str(path), secrets)
        except BadCatalogueError as error:
            raise BadSettingsError(f"INFERENCE_MODELS_FILE: {error}") from None
        self._seen = self._signature(content, self.current)

    @contextlib.asynccontextmanager
    async def watching(self, replace: Callable[[Catalogue], None]) -> AsyncIterator[None]:
        """Call `replace` with each new good version."""
        watch = asyncio.create_task(self._watch(replace))
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:  # elsewhere there is no signal to wait for, and polling finds the change as well
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._wake.set)
        try:
            yield
        finally:
            if is_main:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            await end(watch)

    async def _watch(self, replace: Callable[[Catalogue], None]) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
            is_asked = self._wake.is_set()
            self._wake.clear()
            try:
                await self.look(replace, is_asked=is_asked)
            except Exception:  # a background loop: one bad look must not be the last
                logger.exception("catalogue_watch_failed")

    async def look(self, replace: Callable[[Catalogue], None], *, is_asked: bool = False) -> None:
        """Look once whether there is another version. `is_asked`: say again what is wrong with one that was refused."""
        try:
            content = await asyncio.to_thread(_content, self._path)
            if not is_asked and self._seen == self._signature(content, self.current):
                return
            catalogue = read(content, str(self._path), self.secrets)
        except BadCatalogueError as error:
            self._refuse(error, is_asked=is_asked)
            return
        seen, self._seen = self._seen, self._signature(content, catalogue)
        if seen == self._seen:
            return
        self.current = catalogue
        replace(catalogue)
        self.reloads += 1
        logger.info("catalogue_reloaded", extra={"revision": catalogue.revision, "models": len(catalogue.models)})

    def _refuse(self, error: BadCatalogueError, *, is_asked: bool) -> None:
        told = [str(problem) for problem in error.problems]
        if self._seen == told and not is_asked:
            return  # said already
        self._seen = told
        self.refused += 1
        logger.error("catalogue_refused", extra={"file": str(self._path), "problems": told[:_PROBLEMS_LOGGED]})

    def _signature(self, content: bytes, catalogue: Catalogue) -> object:
        """What a version depends on: the file, and the secrets that it names (one may be rotated under its name)."""
        names = {target.api_key for _, target in catalogue.targets() if target.api_key}
        return content, {name: self.secrets.value(name) for name in sorted(names)}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCatalogueError(str(path), [Problem(1, None, f"cannot be read: {error.strerror}")]) from None
