"""The stores of the component `stores` keep the architecture's promises, in the sizes that services count on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devstack.stores import STORES
from support.kubernetes import SETTINGS, container_of, of_kind, pod_of, quantity_bytes, workloads
from support.kustomization import K8S, read

if TYPE_CHECKING:
    from support.kustomization import Object

NAMES = [store.name for store in STORES]


@pytest.fixture(scope="module")
def parts() -> list[Object]:
    return read(K8S / "overlays" / "local").objects


def options_files(parts: list[Object]) -> dict[str, str]:
    (files,) = (one["data"] for one in of_kind(parts, "ConfigMap") if one["metadata"]["name"] == "stores")
    return dict(files)


def options(parts: list[Object], name: str) -> dict[str, str]:
    text = options_files(parts)[f"{name}.conf"]
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    return {option: value.strip('"') for option, value in lines}


@pytest.mark.parametrize("store", STORES, ids=NAMES)
def test_each_store_has_the_policy_that_development_and_tests_have(parts: list[Object], store: object) -> None:
    (known,) = (one for one in STORES if one is store)
    policy = dict(zip(known.policy[::2], known.policy[1::2], strict=True))
    for option, value in policy.items():
        if option != "--maxmemory":
            assert options(parts, known.name)[option.removeprefix("--")] == value
    assert "maxmemory" in options(parts, known.name)


@pytest.mark.parametrize("name", NAMES)
def test_a_store_has_room_beside_its_data_in_memory_and_on_disk(parts: list[Object], name: str) -> None:
    (server,) = workloads(parts, f"valkey-{name}")
    most = quantity_bytes(options(parts, name)["maxmemory"])
    assert most * 1.5 <= quantity_bytes(container_of(server)["resources"]["limits"]["memory"])
    claims = server["spec"].get("volumeClaimTemplates", [])
    assert bool(claims) == (options(parts, name)["appendonly"] == "yes"), "who persists needs a volume that stays"
    for claim in claims:
        assert quantity_bytes(claim["spec"]["resources"]["requests"]["storage"]) >= 3 * most
        assert server["spec"]["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }


def test_kept_answers_and_jobs_take_half_of_the_state_store_each_at_most(parts: list[Object]) -> None:
    half = quantity_bytes(options(parts, "state")["maxmemory"]) / 2
    assert SETTINGS["gateway"].model_fields["idempotency_total_bytes"].default < half
    assert SETTINGS["jobs"].model_fields["max_bytes"].default < half


@pytest.mark.parametrize("name", NAMES)
def test_a_store_reads_its_own_file_and_asks_for_its_own_password(parts: list[Object], name: str) -> None:
    (server,) = workloads(parts, f"valkey-{name}")
    container = container_of(server)
    server_and_file, options_of_pod = container["command"][:2], container["command"][2:]
    assert server_and_file == ["valkey-server", f"/etc/valkey/{name}.conf"]
    assert options_of_pod == ["--dir", "/data", "--requirepass", "$(STORE_PASSWORD)"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": f"store-{name}", "key": "password"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert "/data" in mounts
    assert f"{name}.conf" in options_files(parts)
    assert {"name": mounts["/etc/valkey"], "configMap": {"name": "stores"}} in pod_of(server)["volumes"]


def test_the_url_of_a_store_is_its_service_with_its_password(secrets: dict[str, dict[str, str]]) -> None:
    for name in NAMES:
        entry = secrets[f"store-{name}"]
        assert entry["url"] == f"redis://:{entry['password']}@valkey-{name}:6379/0"
