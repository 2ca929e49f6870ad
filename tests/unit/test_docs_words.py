"""What the documentation names is there: settings, headers, names of the code; and what it says to type is right."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest

import devstack.cli
import gateway.cli.commands
from unit.test_docs import DOCUMENTS, OF_OTHERS, documented_variables, named

ROOT = Path(__file__).parents[2]
TODAYS = [path for path in DOCUMENTS if "adr" not in path.parts]
"""A decision's record says what was, and is not rewritten."""
ADMINISTRATION = {"keys", "tenants", "usage", "audit", "cache", "jobs"}
STACK = {"up", "down", "reset", "demo", "run", "trace", "capacity"}
OF_OTHERS_TOO = {"x-langfuse-ingestion-version", "dependency_overrides"}
MADE_UP = {"test_a_refused_caller_is_told_when_to_return"}
"""Shows what a good name is."""
_SOURCES = {".py", ".lua", ".sh", ".yaml", ".yml", ".toml", ".json", ".conf"}
_SETTING = re.compile(r"\b(?:GATEWAY|INFERENCE|CACHE|JOBS|WORKER|SIMULATOR)_[A-Z0-9_]*[A-Z0-9]\b")
_SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"\./justw ([a-z][^\n|;`)]*)")


@functools.cache
def sources() -> str:
    """What is ours and no documentation."""
    folders = (ROOT / name for name in ("libs", "services", "infra", "tests"))
    paths = (path for folder in folders for path in folder.rglob("*") if path.suffix in _SOURCES)
    return "\n".join(path.read_text() for path in paths if path != Path(__file__))


@pytest.mark.parametrize("document", TODAYS, ids=named)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    said_in_place = set(re.findall(r"\b([A-Z_]+)=\S*://", text))  # what a command is given, in its own line
    unknown = set(_SETTING.findall(text)) - documented_variables().keys() - said_in_place
    assert {name for name in unknown if not OF_OTHERS.match(name)} == set()


@pytest.mark.parametrize("document", TODAYS, ids=named)
def test_every_header_that_is_named_exists(document: Path) -> None:
    headers = set(re.findall(r"(?<![\w-])x-[a-z][a-z-]*[a-z]", document.read_text())) - OF_OTHERS_TOO
    assert {name for name in headers if name not in sources()} == set()


@pytest.mark.parametrize("document", TODAYS, ids=named)
def test_every_name_of_the_code_that_is_quoted_exists(document: Path) -> None:
    """Fields, error codes, log messages, metrics, attributes, files and tests."""
    quoted = set(re.findall(r"`([a-z]+(?:[_.][a-z]+)*_[a-z_.]*[a-z])`", document.read_text()))
    quoted -= OF_OTHERS_TOO | MADE_UP
    assert {name for name in quoted if name not in sources() and name.replace("_", ".") not in sources()} == set()


@pytest.mark.parametrize("document", TODAYS, ids=named)
def test_every_command_that_is_shown_is_understood(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = document.read_text()
    whole = {line for block in _SHELL.findall(text) for line in _TYPED.findall(block)}
    wrong = []
    for line in sorted(set(_TYPED.findall(text))):
        words = shlex.split(line, comments=True)
        if words[0] not in ADMINISTRATION | STACK or "…" in line:
            continue
        parser = devstack.cli.parser() if words[0] in STACK else gateway.cli.commands.parser()
        try:
            parser.parse_args(words)
        except SystemExit as ended:
            why = capsys.readouterr().err
            # In a sentence `./justw keys disable` names a command, and gives it nothing.
            if ended.code and (line in whole or "are required" not in why):
                wrong.append((line, why))
    assert wrong == []
