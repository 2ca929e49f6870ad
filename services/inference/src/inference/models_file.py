"""Reads `models.yaml`: strictly, and what is wrong with it is told by file, line and field.

PyYAML composes nodes, which know their lines; the values are then judged by the catalogue's own model. YAML's anchors
work, its tags do not, and a key that stands twice is an error rather than the last one's victory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import yaml
from pydantic import ValidationError

from common.errors import param_path
from inference.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.named_secrets import NamedSecrets

    Path = tuple[int | str, ...]

MAX_BYTES = 1024 * 1024
_KEY = "[key]"


@dataclass(frozen=True, slots=True)
class Problem:
    line: int
    field: str | None
    """As `models.sim-small.targets[0].weight`."""
    message: str

    def __str__(self) -> str:
        return f"{self.line}: {self.field}: {self.message}" if self.field else f"{self.line}: {self.message}"


class BadCatalogueError(Exception):
    """A version of the catalogue that cannot be used; one line for each problem, none of them a secret."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{file}:{problem}" for problem in problems))
        self.problems = problems


def read(content: bytes, file: str, secrets: NamedSecrets | None = None) -> Catalogue:
    """Judge one version; `file` is its name in errors. With `secrets`, those that it names have to be there.

    Raises `BadCatalogueError`.
    """
    if len(content) > MAX_BYTES:
        raise BadCatalogueError(file, [Problem(1, None, f"the file is larger than {MAX_BYTES} bytes")])
    lines: dict[Path, int] = {(): 1}
    try:
        node = yaml.compose(content.decode("utf-8"), yaml.SafeLoader)
        value = _value(node, (), lines)
        catalogue = Catalogue.model_validate_json(orjson.dumps(value), strict=True)
    except _MisplacedError as error:
        raise BadCatalogueError(file, [Problem(error.line, error.field, str(error))]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadCatalogueError(
            file, [Problem(mark.line + 1 if mark else 1, None, error.problem or "bad YAML")]
        ) from None
    except orjson.JSONEncodeError:
        raise BadCatalogueError(file, [Problem(1, None, "a number of it is larger than 64 bits hold")]) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise BadCatalogueError(file, [Problem(1, None, "it is no YAML in UTF-8")]) from None
        found = list(_of_fields(error))
    else:
        found = list(_inconsistencies(catalogue, secrets))
    problems = [Problem(_line(path, lines), param_path(_shown(path)), message) for path, message in found]
    if problems:
        raise BadCatalogueError(file, problems)
    return catalogue


class _MisplacedError(Exception):
    def __init__(self, message: str, node: yaml.Node, path: Path) -> None:
        super().__init__(message)
        self.line = node.start_mark.line + 1
        self.field = param_path(path)


def _value(node: yaml.Node | None, path: Path, lines: dict[Path, int]) -> Any:
    """The plain value of a node; `lines` gets the place of everything in it."""
    if node is None:
        return None
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise _MisplacedError("a key has to be a plain word", key, path)
            place = (*path, key.value)
            if key.value in mapping:
                raise _MisplacedError("the key stands here a second time", key, place)
            lines[place] = key.start_mark.line + 1
            mapping[key.value] = _value(inner, place, lines)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(inner, (*path, index), lines) for index, inner in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise _MisplacedError("a tag means nothing here", node, path)
    try:
        return yaml.SafeLoader.construct_object(yaml.SafeLoader(""), node)
    except (yaml.YAMLError, ValueError):
        raise _MisplacedError("the value cannot be read", node, path) from None


def _of_fields(error: ValidationError) -> Iterator[tuple[Path, str]]:
    """Without the complaint that a list is too short because of those of its items that are told of anyway."""
    problems = [(tuple(problem["loc"]), problem) for problem in error.errors(include_input=False, include_url=False)]
    for path, problem in problems:
        inner = any(len(other) > len(path) and other[: len(path)] == path for other, _ in problems)
        if problem["type"] != "too_short" or not inner:
            yield path, problem["msg"]


def _line(path: Path, lines: dict[Path, int]) -> int:
    """Of the field, or of the nearest thing around it: a missing field has no line of its own."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _shown(path: Path) -> Path:
    return path[:-1] if path and path[-1] == _KEY else path


def _inconsistencies(catalogue: Catalogue, secrets: NamedSecrets | None) -> Iterator[tuple[Path, str]]:
    """What each part alone cannot know."""
    owners: dict[str, str] = {}
    for name, model in catalogue.models.items():
        here: Path = ("models", name)
        for index, target in enumerate(model.targets):
            place = (*here, "targets", index)
            if target.name in owners:
                yield (*place, "name"), f"the name {target.name} is that of a target of {owners[target.name]} already"
            owners[target.name] = name
            if secrets is not None and target.api_key is not None and secrets.value(target.api_key) is None:
                yield (*place, "api_key"), f"there is no secret of the name {target.api_key}"
        named: list[tuple[Path, str]] = [(("fallback", index), other) for index, other in enumerate(model.fallback)]
        if model.larger is not None:
            named.append((("larger",), model.larger))
        for place, other in named:
            if other == name or other not in catalogue.models:
                yield (*here, *place), f"{other} is no other model of this file"
        stable = [target for target in model.targets if model.canary is None or target.name != model.canary.target]
        if model.canary is not None and len(stable) == len(model.targets):
            yield (*here, "canary", "target"), f"{model.canary.target} is no target of this model"
        elif not any(target.weight for target in stable):
            yield (*here, "targets"), "one target beside the canary has to have a weight above 0"
