"""The commands behind the justfile's recipes. Each is imported when it is used: `up` stays small, `trace` quick."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from devstack import capacity, ports
from devstack.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. An expected failure is one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except CommandError as error:
        sys.stderr.write(f"{options.command}: {error}\n")
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./justw", description="The Spillway stack on this machine.")
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything; Ctrl-C stops it")
    commands.add_parser("down", help="stop a running stack")
    commands.add_parser("reset", help="remove the stack's data and secrets")
    commands.add_parser("demo", help="see a cache hit, a stream, retries, a job and traces")
    run = commands.add_parser("run", help="start one more replica of a service")
    run.add_argument("service", choices=("gateway", "inference", "cache", "jobs", "worker", "simulator"))
    run.add_argument("--port", type=ports.port_of, metavar="N", help="a free one if not given")
    trace = commands.add_parser("trace", help="print the trace of the last request, or of one, as a tree")
    trace.add_argument("id", nargs="?", help="its x-trace-id, or the first digits of it")
    trace.add_argument("--attributes", action="store_true", help="with each span's attributes and events")
    capacity.add_arguments(commands.add_parser("capacity", help="what a load needs, and what is full first"))
    openapi = commands.add_parser("openapi", help="write the services' OpenAPI documents")
    openapi.add_argument("directory", type=Path)
    dashboards = commands.add_parser("dashboards", help="write Grafana's dashboards")
    dashboards.add_argument("directory", type=Path)
    traces = commands.add_parser("traces", help="receive spans over OTLP/HTTP (a part of up)")
    traces.add_argument("--port", type=int, default=4318)
    announce = commands.add_parser("announce", help="say when the stack is ready (a part of up)")
    announce.add_argument("started", type=float)
    announce.add_argument("urls", nargs="*")
    return made


def _up(_: argparse.Namespace) -> None:
    from devstack import up  # noqa: PLC0415  # see the module's docstring, here and below

    up.run()


def _down(_: argparse.Namespace) -> None:
    from devstack import local_dir  # noqa: PLC0415

    stopped = local_dir.stop(local_dir.LocalDir.from_environ(os.environ))
    print("stopped" if stopped else "no stack is running")


def _reset(_: argparse.Namespace) -> None:
    from devstack import local_dir, stores  # noqa: PLC0415

    local = local_dir.LocalDir.from_environ(os.environ)
    was_there = local_dir.reset(local, tuple(store.name for store in stores.STORES))
    print(f"{local.root} removed" if was_there else "there is nothing to remove")


def _demo(_: argparse.Namespace) -> None:
    from devstack import demo  # noqa: PLC0415

    demo.run()


def _run(options: argparse.Namespace) -> None:
    from devstack import replica  # noqa: PLC0415

    replica.run(options.service, options.port)


def _trace(options: argparse.Namespace) -> None:
    from devstack import trace_client  # noqa: PLC0415

    trace_client.show(options.id, attributes=options.attributes)


def _openapi(options: argparse.Namespace) -> None:
    from devstack import openapi  # noqa: PLC0415

    openapi.write(options.directory)


def _dashboards(options: argparse.Namespace) -> None:
    from devstack import dashboards  # noqa: PLC0415

    dashboards.write(options.directory)


def _capacity(options: argparse.Namespace) -> None:
    print(capacity.render(capacity.load_of(options)))


def _traces(options: argparse.Namespace) -> None:
    from devstack import otlp_sink  # noqa: PLC0415

    otlp_sink.serve(options.port)


def _announce(options: argparse.Namespace) -> None:
    from devstack import announce, local_dir  # noqa: PLC0415

    announce.run(local_dir.LocalDir.from_environ(os.environ), options.urls, options.started)


_COMMANDS = {
    "up": _up,
    "down": _down,
    "reset": _reset,
    "demo": _demo,
    "run": _run,
    "trace": _trace,
    "capacity": _capacity,
    "openapi": _openapi,
    "dashboards": _dashboards,
    "traces": _traces,
    "announce": _announce,
}
