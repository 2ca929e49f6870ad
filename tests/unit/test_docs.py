"""The documentation says what is: its settings, recipes and links exist, and it names no machine."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

import cache.settings
import gateway.settings
import inference.settings
import jobs.settings
from simulator.settings import SimulatorSettings

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
ENV_EXAMPLE = ROOT / ".env.example"
SETTINGS: tuple[type[BaseSettings], ...] = (
    gateway.settings.Settings,
    inference.settings.Settings,
    cache.settings.Settings,
    jobs.settings.Settings,
    jobs.settings.WorkerSettings,
    SimulatorSettings,
)
OF_OTHERS = re.compile(r"OTEL_|OPENAI_|UPSTREAM_|SPILLWAY_")

_NOT_OURS = {".git", ".venv", ".tools", ".local", "node_modules", ".pytest_cache", ".hypothesis"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if _NOT_OURS.isdisjoint(path.relative_to(ROOT).parts))

_VARIABLE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_RECIPE = re.compile(r"(?:\./justw|`just) ([a-z][a-z0-9-]*)")
_JUSTFILE_RECIPE = re.compile(r"^@?([a-z][a-z0-9-]*)(?: [^:]*)?:(?!=)", re.MULTILINE)
_MACHINE_PATH = re.compile(r"(?<![\w./:$~-])/(?:home|root|Users|work|tmp|private|mnt|srv|opt)/")
_TITLE = re.compile(r"^#+ (.+)$", re.MULTILINE)


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def documented_variables() -> dict[str, tuple[bool, str]]:
    """Each variable of `.env.example`: whether it is required, and the value that is shown."""
    return {name: (not hash_, value) for hash_, name, value in _VARIABLE.findall(ENV_EXAMPLE.read_text())}


def settings_variables() -> dict[str, tuple[bool, str]]:
    """The same, read from the services."""
    variables = {}
    for settings in SETTINGS:
        prefix = settings.model_config.get("env_prefix", "")
        for name, field in settings.model_fields.items():
            variables[f"{prefix}{name.upper()}"] = (field.is_required(), shown(field.default))
    return variables


def shown(default: object) -> str:
    if default is None or default is PydanticUndefined:
        return ""
    assert not isinstance(default, SecretStr), "a secret has no default"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_the_env_example_names_each_setting_with_its_default_and_no_other() -> None:
    documented = {name: setting for name, setting in documented_variables().items() if not OF_OTHERS.match(name)}
    assert documented == settings_variables()


def test_every_line_of_the_env_example_is_explained_by_the_comment_above_it() -> None:
    lines = ENV_EXAMPLE.read_text().splitlines()
    unexplained = [
        line for above, line in itertools.pairwise(lines) if _VARIABLE.match(line) and not above.startswith("# ")
    ]
    assert unexplained == []


def test_no_variable_of_the_env_example_stands_there_twice() -> None:
    names = [name for _, name, _ in _VARIABLE.findall(ENV_EXAMPLE.read_text())]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_recipe_that_is_named_exists(document: Path) -> None:
    recipes = set(_JUSTFILE_RECIPE.findall((ROOT / "justfile").read_text()))
    assert set(_RECIPE.findall(document.read_text())) - recipes == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_relative_link_points_at_a_file_and_a_heading_that_exist(document: Path) -> None:
    broken = []
    for link in _LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(document: Path) -> set[str]:
    """The headings as a link writes them: lower case, without punctuation, blanks as hyphens."""
    titles = _TITLE.findall(document.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", [*DOCUMENTS, ENV_EXAMPLE], ids=named)
def test_no_document_names_a_path_of_one_machine(document: Path) -> None:
    assert _MACHINE_PATH.findall(document.read_text()) == []


@pytest.mark.parametrize("service", ["gateway", "inference", "cache", "jobs"])
def test_the_page_of_each_service_has_the_same_six_headings(service: str) -> None:
    page = (ROOT / "services" / service / "README.md").read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [
        "Purpose", "Endpoints", "Settings", "Fails when", "Metrics and spans", "Run it alone",
    ]  # fmt: skip


def test_the_decisions_are_numbered_without_a_gap_and_say_context_and_decision() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        headings = re.findall(r"^## (.+)$", record.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Rejected"], record.name
