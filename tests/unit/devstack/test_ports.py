from __future__ import annotations

import re
import socket

import pytest

from devstack import ports
from devstack.errors import CommandError


def test_every_part_has_its_documented_port() -> None:
    assert ports.assign({}) == {
        "gateway": 8080,
        "inference": 8081,
        "cache": 8082,
        "jobs": 8083,
        "worker": 8084,
        "simulator": 8090,
        "traces": 4318,
        "valkey-state": 6391,
        "valkey-limits": 6392,
        "valkey-cache": 6393,
        "gateway-metrics": 9464,
        "inference-metrics": 9465,
        "cache-metrics": 9466,
        "jobs-metrics": 9467,
        "worker-metrics": 9468,
    }


def test_the_offset_moves_every_port_so_that_two_stacks_run_side_by_side() -> None:
    here, there = ports.assign({}), ports.assign({"SPILLWAY_PORT_OFFSET": "1000"})

    assert {there[part] - here[part] for part in here} == {1000}
    assert not set(here.values()) & set(there.values())


def test_a_services_own_variable_wins_over_the_offset() -> None:
    assigned = ports.assign({"SPILLWAY_PORT_OFFSET": "1000", "GATEWAY_PORT": "9999"})

    assert (assigned["gateway"], assigned["cache"]) == (9999, 9082)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"SPILLWAY_PORT_OFFSET": "many"}, "SPILLWAY_PORT_OFFSET"),
        ({"CACHE_PORT": "x"}, "CACHE_PORT"),
        ({"SPILLWAY_PORT_OFFSET": "60000"}, "SPILLWAY_PORT_OFFSET"),
        ({"GATEWAY_PORT": "-1"}, "GATEWAY_PORT"),
    ],
)
def test_a_variable_that_is_no_port_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(CommandError, match=named):
        ports.assign(environ)


def test_a_taken_port_is_refused_by_number_and_part() -> None:
    with socket.create_server((ports.HOST, 0)) as listener:
        port = listener.getsockname()[1]

        with pytest.raises(CommandError, match=f"port {port}, which cache needs, is taken"):
            ports.refuse_taken({"gateway": ports.find_free(), "cache": port}, ["gateway", "cache"], {})


def test_who_is_refused_a_port_is_told_what_would_help() -> None:
    with socket.create_server((ports.HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CommandError, match=r"or set CACHE_PORT to another port$"):
            ports.refuse_taken({"cache": port}, ["cache"], {"CACHE_PORT": str(port)})
        with pytest.raises(CommandError, match=r"gateway-metrics needs.*SPILLWAY_PORT_OFFSET=\d+ to move") as told:
            ports.refuse_taken(
                {"gateway": ports.find_free(), "gateway-metrics": port}, ["gateway"], {"SPILLWAY_PORT_OFFSET": "1100"}
            )
    helps = re.search(r"SPILLWAY_PORT_OFFSET=(\d+)", str(told.value))
    assert helps
    assert int(helps[1]) > 1100
    ports.refuse_taken(ports.assign({"SPILLWAY_PORT_OFFSET": helps[1]}), ports.DEFAULTS, {})


def test_a_port_is_free_again_at_once_after_its_listener_closed() -> None:
    with (
        socket.create_server((ports.HOST, 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        port = listener.getsockname()[1]
        accepted.close()  # the server's end closes first, so its address is left in TIME_WAIT
    ports.refuse_taken({"gateway": port}, ["gateway"], {})
