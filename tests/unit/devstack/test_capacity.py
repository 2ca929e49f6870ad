"""The model of capacity, and the figures of docs/scaling.md that come from it."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import re
import shlex
from pathlib import Path

import pytest

import gateway.settings
import jobs.settings
from cache.flights import LEASE_MS
from common import stores
from devstack import capacity, costs
from devstack.capacity import Load
from devstack.errors import CommandError
from gateway.caching import entry_writer
from gateway.limits import ledger, settling

SCALING = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text()
_BLOCK = re.compile(r"```text\n\$ \./justw capacity ?(.*)\n((?:.*\n)+?)```\n")
RATES = (100, 1_000, 10_000)


def load_of(arguments: str) -> Load:
    parser = argparse.ArgumentParser()
    capacity.add_arguments(parser)
    return capacity.load_of(parser.parse_args(shlex.split(arguments)))


def needs(load: Load) -> dict[str, capacity.Need]:
    return {need.part: need for need in capacity.plan(load)}


def row(rate: int) -> str:
    """Of the table of rates."""
    found = needs(Load(requests_per_s=rate))
    replicas = " | ".join(str(found[part].replicas) for part in ("gateway", "inference", "cache"))
    asked = [f"{found[part].calls_per_s:,.0f}, {found[part].replicas}" for part in ("limits store", "cache store")]
    cores = sum(need.cores for need in found.values())
    memory_mb = sum(found[part].memory_mb for part in costs.SERVICES)
    connections = f"{found['gateway'].connections:,.0f}"
    return (
        f"| {rate:,} | {replicas} | {cores:,.1f} | {memory_mb / 1024:,.1f} GB | {connections} | {' | '.join(asked)} |"
    )


def test_every_output_of_the_command_in_the_documentation_is_what_it_prints_today() -> None:
    blocks = _BLOCK.findall(SCALING)
    assert blocks
    for arguments, printed in blocks:
        assert printed == capacity.render(load_of(arguments)) + "\n"


@pytest.mark.parametrize("rate", RATES)
def test_the_table_of_rates_in_the_documentation_is_the_calculators(rate: int) -> None:
    assert row(rate) in SCALING


def test_the_figures_in_the_text_are_the_calculators() -> None:
    found = needs(Load())
    rates = Load().rates()
    upstream = rates["miss"] * Load().answer_s + rates["stream"] * Load().stream_s
    mesh = needs(Load(requests_per_s=10_000))["inference"].open
    for said in (
        f"is {mesh:,.0f} connections",
        f"10,000 users are {upstream:,.0f} answers under way",
        f"are {math.ceil(upstream / 64)} of them",
        f"gateway's CPU**, at {found['gateway'].full_at:,.0f} requests/s",
        f"Inference's CPU**, at {found['inference'].full_at:,.0f};",
        f"service's**, at {found['cache'].full_at:,.0f}:",
        f"thread**, at {found['cache store'].full_at:,.0f}, and",
        f"store's**, at {found['limits store'].full_at:,.0f} requests/s",
        f"at most {found['cache store'].full_at:,.0f} requests/s",
    ):
        assert said in " ".join(SCALING.split()), said


@pytest.mark.parametrize(
    ("hit_ratio", "stream_share", "chunks"), list(itertools.product((0, 0.2, 0.5, 0.9), (0, 0.5, 1), (20, 200, 1_000)))
)
def test_the_gateway_is_the_first_of_our_parts_to_be_full(hit_ratio: float, stream_share: float, chunks: int) -> None:
    load = Load(hit_ratio=hit_ratio, stream_share=stream_share, chunks=chunks)
    assert capacity.first(capacity.plan(load)).part == "gateway"


def test_twice_the_users_are_twice_the_work_and_at_least_as_many_replicas() -> None:
    one, two = (needs(Load(users=users)) for users in (10_000, 20_000))
    for part in costs.SERVICES:
        assert two[part].cores == pytest.approx(2 * one[part].cores)
        assert two[part].replicas >= one[part].replicas
        assert two[part].full_at == pytest.approx(one[part].full_at)


def test_the_smallest_load_has_two_of_each_service_and_one_of_each_store() -> None:
    found = needs(Load(users=1))
    assert {found[part].replicas for part in costs.SERVICES} == {2}
    assert {found[f"{store} store"].replicas for store in costs.STORES} == {1}


def test_what_costs_a_core_is_that_core() -> None:
    """1,000 look-ups a second of 1.27 ms in the gateway and 0.54 in the cache, with nothing else to do."""
    found = needs(Load(requests_per_s=1_000, hit_ratio=1))
    assert found["gateway"].cores == pytest.approx(1.07 + costs.LIMITS_CPU_MS)
    assert found["cache"].cores == pytest.approx(0.54)
    assert found["inference"].cores == 0
    assert found["gateway"].replicas == math.ceil((1.07 + costs.LIMITS_CPU_MS) / 0.6)


def test_long_answers_fill_the_places_of_a_gateway_before_its_core() -> None:
    load = Load(requests_per_s=100, hit_ratio=0, stream_share=0, answer_s=60, core_speed=100)
    found = needs(load)["gateway"]
    assert (found.open, found.full_of) == (6_000, "open requests")
    assert found.replicas == math.ceil(6_000 / 512 / load.busy)


def test_a_job_is_accepted_once_and_its_replay_is_a_miss() -> None:
    rates = Load(requests_per_s=100, job_share=0.1, hit_ratio=0.5, stream_share=0).rates()
    assert rates == {"hit": 45, "miss": 55, "stream": 0, "job": 10}
    found = needs(Load(requests_per_s=100, job_share=1, keys=0))
    assert found["state store"].calls_per_s == 100 * costs.COSTS["job"].calls["state"]
    assert found["worker"].open == 300


def test_a_store_holds_what_came_in_for_as_long_as_it_is_kept() -> None:
    found = needs(Load(requests_per_s=10, hit_ratio=0, stream_share=0, chunks=100, job_share=0.5, keys=10))
    fixed = {
        store: costs.STORE_IDLE_MB + found[f"{store} store"].connections * costs.STORE_CONNECTION_KB / 1024
        for store in costs.STORES
    }
    kept = {store: round((found[f"{store} store"].memory_mb - fixed[store]) * 2**20) for store in costs.STORES}
    assert kept == {
        "state": 10 * 600 + 5 * 86_400 * 3_000,
        "limits": 5 * 300 * 100 + 10 * 400 * 240,
        "cache": 10 * 3_600 * 1_030,
    }
    streams = Load(requests_per_s=10, hit_ratio=0, stream_share=1, chunks=7_800)
    assert needs(streams)["cache store"].memory_mb > 1_700
    too_large = dataclasses.replace(streams, chunks=7_900)
    assert needs(too_large)["cache store"].memory_mb < 500


def test_bounds_of_the_model_are_those_of_the_settings() -> None:
    assert {
        "gateway": gateway.settings.Settings.model_fields["max_concurrency"].default,
        "worker": jobs.settings.WorkerSettings.model_fields["concurrency"].default,
    } == costs.MOST_OPEN
    of_gateway = {name: field.default for name, field in gateway.settings.Settings.model_fields.items()}
    assert (of_gateway["entry_ttl_s"], of_gateway["max_entry_bytes"]) == (costs.ENTRY_LIFE_S, costs.MOST_ENTRY_BYTES)
    assert entry_writer.MOST_SHRINKING * costs.MOST_ENTRY_BYTES == costs.MOST_EVENTS_BYTES
    assert jobs.settings.Settings.model_fields["keep_s"].default == costs.JOB_LIFE_S
    assert (ledger.KEPT_S, settling.MARK_LIFE_S) == (costs.USAGE_DAYS * 86_400, costs.MARK_LIFE_S)
    assert LEASE_MS == costs.FLIGHT_LEFT_S * 1_000
    assert {most for of in costs.STORE_CONNECTIONS.values() for most in of.values()} >= {stores.CONNECTIONS}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [("--hit-ratio 1.5", "--hit-ratio"), ("--users 0", "--users"), ("--busy 0", "--busy"), ("--chunks -1", "--chunks")],
)
def test_a_load_that_cannot_be_is_one_line_that_names_the_argument(arguments: str, named: str) -> None:
    with pytest.raises(CommandError, match=named):
        load_of(arguments)


def test_every_part_of_the_model_has_an_argument() -> None:
    fields = [field.name for field in dataclasses.fields(Load)]
    asked = " ".join(f"--{name.replace('_', '-')} 1" for name in fields)
    assert {getattr(load_of(asked), name) for name in fields} == {1}
