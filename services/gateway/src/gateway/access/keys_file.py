"""Keys and tenants that are declared in a file (YAML or JSON, digests only), for those who keep them under version
control. The file wins over the store. It is read again when it changes; a bad version is refused and the last good one
stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from common.background import end
from gateway.admin_requests import KeysFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.access.records import KeyRecord, TenantRecord

logger = logging.getLogger(__name__)

POLL_S = 2
_LARGEST = 16 * 1024 * 1024


class BadKeysFileError(Exception):
    """The keys file is none; the message names the first place at fault and no digest."""


@dataclass(frozen=True, slots=True)
class Declared:
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    tenants: dict[str, TenantRecord] = field(default_factory=dict)


def read(path: Path) -> Declared:
    """Raises `BadKeysFileError`."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise BadKeysFileError(error.strerror or type(error).__name__) from None
    if len(data) > _LARGEST:
        raise BadKeysFileError(f"it is larger than {_LARGEST} bytes")
    try:
        parsed = yaml.load(data, _OneOfEach) or {}  # noqa: S506  # it is a safe loader, and a stricter one
        found = KeysFile.model_validate(parsed)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise BadKeysFileError(f"line {line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise BadKeysFileError("it is neither YAML nor JSON") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadKeysFileError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    keys = {entry.id: entry.record() for entry in found.keys}
    tenants = {
        entry.tenant: dataclasses.replace(entry.record(entry.tenant), is_declared=True) for entry in found.tenants
    }
    if len(keys) != len(found.keys) or len(tenants) != len(found.tenants):
        raise BadKeysFileError("a key or a tenant stands there twice")
    return Declared(keys, tenants)


class _OneOfEach(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice in one mapping, and references to other parts."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # yaml leaves it untyped
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # theirs
        names = [key.value for key, _ in node.value]
        if len(names) != len(set(map(str, names))):
            raise yaml.constructor.ConstructorError(None, None, "a name stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class DeclaredKeys:
    """What the file says now. `path` None: nothing."""

    def __init__(self, path: Path | None) -> None:
        """Read it for the first time. Raises `BadKeysFileError`: there is no last good version yet."""
        self._path = path
        self._seen = self._stamp()
        self.now = Declared() if path is None else read(path)

    @contextlib.asynccontextmanager
    async def watched(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Look for a change every two seconds; `changed` is called after each that was taken over."""
        watch = asyncio.create_task(self._watch(changed))
        try:
            yield
        finally:
            await end(watch)

    def refresh(self) -> bool:
        """Whether the file changed and was taken over."""
        stamp = self._stamp()
        if self._path is None or stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.now = read(self._path)
        except BadKeysFileError as error:
            logger.error("keys_file_refused", extra={"reason": str(error)})  # noqa: TRY400  # the reason says it all
            return False
        logger.info("keys_file_loaded", extra={"keys": len(self.now.keys), "tenants": len(self.now.tenants)})
        return True

    async def _watch(self, changed: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if await asyncio.to_thread(self.refresh):
                changed()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat() if self._path else None  # follows links: how Kubernetes swaps a mounted file
        except OSError:
            return None
        return None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino)
