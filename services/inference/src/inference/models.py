"""`python -m inference.models check FILE` judges a catalogue, `… schema` prints its JSON Schema."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from common.command_line import run
from inference.catalogue import Catalogue
from inference.live_catalogue import read_file
from inference.models_file import BadCatalogueError

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD = 1


def schema() -> bytes:
    """The JSON Schema (2020-12) of `models.yaml`, as it is committed."""
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Catalogue.model_json_schema(),
        "title": "models.yaml of Spillway's inference service",
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: good; 1: the file is not, each problem being a line `FILE:LINE: FIELD: what`."""
    parser = argparse.ArgumentParser(prog="./justw models", description="The catalogue of models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="judge a models.yaml").add_argument("file", type=Path)
    commands.add_parser("schema", help="print the JSON Schema")
    chosen = parser.parse_args(arguments)
    if chosen.command == "schema":
        sys.stdout.buffer.write(schema())
        return 0
    try:
        catalogue = read_file(chosen.file)
    except BadCatalogueError as error:
        sys.stderr.write(f"{error}\n")
        return BAD
    targets = sum(1 for _ in catalogue.targets())
    sys.stdout.write(
        f"{chosen.file}: {len(catalogue.models)} models, {targets} targets, revision {catalogue.revision}\n"
    )
    return 0


if __name__ == "__main__":
    run(main)
