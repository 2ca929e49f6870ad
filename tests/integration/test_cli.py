"""The command line of administration against a running gateway."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.keys import generate_key
from gateway.access.keys_file import read
from gateway.cli.commands import main
from support.platform import ADMIN_KEY, SECRETS, Platform, chat, eventually, platform

if TYPE_CHECKING:
    from pathlib import Path

    from support.valkey import Valkey


@pytest.fixture
def environ(stack: Platform) -> dict[str, str]:
    return {"SPILLWAY_URL": stack.gateway, "SPILLWAY_ADMIN_KEY": ADMIN_KEY, "GATEWAY_KEY_PEPPER": SECRETS["key_pepper"]}


def run(environ: dict[str, str], capsys: pytest.CaptureFixture[str], line: str) -> Any:
    """What a command prints with `--json`."""
    status = main([*line.split(), "--json"], environ)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_in_a_gateways_container_nothing_has_to_be_said(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(environ, capsys, "tenants set mallory --rpm 5")
    port = {"GATEWAY_PORT": environ["SPILLWAY_URL"].rpartition(":")[2]}
    (tmp_path / "GATEWAY_ADMIN_KEY").write_text(f"{ADMIN_KEY}\n")
    for secret in ({"GATEWAY_ADMIN_KEY": ADMIN_KEY}, {"SPILLWAY_SECRETS_DIR": str(tmp_path)}):
        found = run(port | secret, capsys, "tenants list")
        assert "mallory" in {tenant["tenant"] for tenant in found}


def status_of(stack: Platform, key: str) -> int:
    with stack.http(key) as http:
        return http.get("/v1/models").status_code


def test_a_key_lives_its_life_on_the_command_line(
    stack: Platform, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def told(line: str) -> Any:
        return run(environ, capsys, line)

    made = told("keys create --tenant grace --name ci --rpm 600 --usd-per-day 2.5 --models sim-small,sim-large")
    assert made["limits"]["requests_per_minute"] == 600
    assert made["models"] == ["sim-small", "sim-large"]
    assert status_of(stack, made["key"]) == 200
    kid = made["id"]
    assert [key["id"] for key in told("keys list --tenant grace")] == [kid]
    assert told(f"keys change {kid} --cache off --expires-in-days 30")["cache"] == "off"
    rotated = told(f"keys rotate {kid} --grace-s 0")
    assert [status_of(stack, key) for key in (made["key"], rotated["key"])] == [401, 200]
    assert told(f"keys disable {kid}")["enabled"] is False
    assert status_of(stack, rotated["key"]) == 401
    assert told(f"keys enable {kid}")["enabled"] is True
    assert told(f"keys show {kid}")["cache"] == "off"
    assert told(f"keys delete {kid}") == {}
    assert told("audit list --limit 1")[0]["action"] == "key.delete"


def test_what_is_not_named_of_a_tenant_stays_and_none_takes_a_limit_away(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def told(line: str) -> Any:
        found = run(environ, capsys, line)
        return found["enabled"], {name: limit for name, limit in found["limits"].items() if limit is not None}

    def set_to(line: str) -> Any:
        return told(f"tenants set nina {line}")

    assert set_to("--rpm 60 --usd-per-day 20") == (
        True,
        {"mode": "enforce", "requests_per_minute": 60, "budget_usd_per_day": 20},
    )
    assert set_to("--concurrency 3 --disabled")[0] is False
    assert set_to("--rpm none --mode shadow") == (
        False,
        {"mode": "shadow", "max_concurrency": 3, "budget_usd_per_day": 20},
    )
    run(environ, capsys, "tenants set nina --enabled --for-model sim-large --tpm 9")
    enabled, limits = told("tenants show nina")
    assert (enabled, limits["max_concurrency"]) == (True, 3)
    assert main(["tenants", "list"], environ) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["nina", "true"] in [row[:2] for row in rows]
    assert main(["audit", "list", "--limit", "1"], environ) == 0
    assert "model_limits: - -> sim-large: tokens_per_minute=9" in capsys.readouterr().out
    assert run(environ, capsys, "tenants delete nina") == {}


def test_people_read_tables_and_times_and_programs_read_numbers(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(line: str) -> list[list[str]]:
        assert main(line.split(), environ) == 0
        return [row.split() for row in capsys.readouterr().out.splitlines()]

    assert shown("keys list --tenant heidi") == [["heidi", "has", "no", "keys"]]
    made = run(environ, capsys, "keys create --tenant heidi --name ci --expires-in-days 1")
    assert isinstance(made["expires_at"], float)
    head, row = shown("keys list --tenant heidi")
    assert head == ["id", "tenant", "name", "enabled", "expires_at", "last_used_at"]
    at = dt.datetime.fromtimestamp(made["expires_at"], dt.UTC).isoformat().replace("+00:00", "Z")
    assert row == [made["id"], "heidi", "ci", "true", at, "-"]
    assert ["tenant", "heidi"] in shown(f"keys show {made['id']}")
    assert ["expires_at", "-"] in shown(f"keys change {made['id']} --expires-in-days never")
    assert shown(f"keys delete {made['id']}") == [[made["id"], "deleted"]]


@pytest.mark.parametrize(
    ("line", "changed", "why"),
    [
        ("keys show 0000000000000000", {}, "404: No such key."),
        ("keys list", {"SPILLWAY_ADMIN_KEY": ""}, "SPILLWAY_ADMIN_KEY not set"),
        ("keys list", {"SPILLWAY_ADMIN_KEY": "wrong"}, "401: The admin key"),
        ("keys list", {"SPILLWAY_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer: ConnectError"),
        ("keys show ../tenants/acme", {}, "keys show: 40"),
        ("usage list --from yesterday", {}, "(from)"),
        ("tenants set acme --for-model sim-small", {}, "--for-model needs a limit"),
        ("keys create --tenant a --name b --declare", {"GATEWAY_KEY_PEPPER": ""}, "GATEWAY_KEY_PEPPER not set"),
    ],
)
def test_a_failure_is_one_line(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], line: str, changed: dict[str, str], why: str
) -> None:
    assert main(line.split(), environ | changed) == 1
    (told,) = capsys.readouterr().err.splitlines()[-1:]
    assert why in told


def test_a_declared_key_works_and_is_changed_in_its_file_alone(  # noqa: PLR0913, PLR0917  # fixtures
    tmp_path: Path,
    state_store: Valkey,
    cache_store: Valkey,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "keys.json"
    assert (
        main(["keys", "create", "--tenant", "ivan", "--name", "ci", "--models", "sim-small", "--declare"], environ) == 0
    )
    captured = capsys.readouterr()
    key, entry = captured.err.strip(), json.loads(captured.out)
    path.write_text(json.dumps({"keys": [entry], "tenants": [{"tenant": "ivan"}]}))
    with platform(state_store.url, cache_store.url, of_gateway={"keys_file": str(path)}) as started:
        with started.http(key) as http:
            assert http.post("/v1/chat/completions", json=chat("hello")).status_code == 200
        with started.http(ADMIN_KEY) as admin:
            url = f"/admin/keys/{entry['id']}"
            assert admin.get(url).json()["is_declared"] is True
            assert entry["id"] in {shown["id"] for shown in admin.get("/admin/keys").json()["data"]}
            for answer in (
                admin.patch(url, json={"enabled": False}),
                admin.delete(url),
                admin.post(f"{url}/rotate", json={}),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (409, "declared_in_file")
            for answer in (admin.put("/admin/tenants/ivan", json={}), admin.patch("/admin/tenants/ivan", json={})):
                assert answer.json()["error"]["code"] == "declared_in_file"
        other = generate_key("live")
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{other.text}\n"))
        assert main(["keys", "hash", "--tenant", "judy", "--name", "ci"], environ) == 0
        path.write_text(json.dumps({"keys": [json.loads(capsys.readouterr().out)]}))
        assert eventually(lambda: status_of(started, other.text) == 200 and status_of(started, key) == 401)
    assert set(read(path).keys) == {other.kid}
