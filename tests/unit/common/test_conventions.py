"""The names of spans, attributes and events stand in one table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from common.telemetry import conventions

CHECKOUT = Path(__file__).parents[3]
OWN_TABLES = ("conventions.py", "metrics.py")
"""How their names end; the others hold a service's instruments, whose names are said once each."""
NO_SPANS = {"spillway.answer", "spillway.content", "spillway.transport"}
"""Extensions of requests."""
SOURCES = [
    path
    for folder in ("libs/common/src", "services")
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
    if not path.name.endswith(OWN_TABLES)
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_name_of_a_span_attribute_stands_anywhere_else(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    instruments = {
        id(node.args[0])
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("create_")
        if node.args
    }
    literals = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in instruments
    }
    named = {text for text in literals if text.startswith(("spillway.", "gen_ai.", "db.", "url."))}
    assert named - NO_SPANS == set()


def test_each_name_stands_in_the_table_once() -> None:
    names = [value for name, value in vars(conventions).items() if name.isupper()]
    assert len(names) == len(set(names)) > 30
