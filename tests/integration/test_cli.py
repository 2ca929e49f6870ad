"""The command line of administration against a running gateway."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import cli
from gateway.access.keys import generate_key
from gateway.access.keys_file import read
from support.platform import ADMIN_KEY, SECRETS, Platform, chat, eventually, platform

if TYPE_CHECKING:
    from pathlib import Path

    from support.valkey import Valkey


@pytest.fixture
def environ(stack: Platform) -> dict[str, str]:
    return {"SPILLWAY_URL": stack.gateway, "SPILLWAY_ADMIN_KEY": ADMIN_KEY, "GATEWAY_KEY_PEPPER": SECRETS["key_pepper"]}


def run(environ: dict[str, str], capsys: pytest.CaptureFixture[str], line: str) -> Any:
    """What a command prints with `--json`."""
    status = cli.main([*line.split(), "--json"], environ)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_where_secrets_are_files_the_admin_key_is_found_there(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(environ, capsys, "tenants set mallory --rpm 5")
    (tmp_path / "GATEWAY_ADMIN_KEY").write_text(f"{environ.pop('SPILLWAY_ADMIN_KEY')}\n")
    found = run(environ | {"SPILLWAY_SECRETS_DIR": str(tmp_path)}, capsys, "tenants list")
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
    assert told("tenants set grace --concurrency 3 --disabled")["enabled"] is False
    assert told("tenants show grace") in told("tenants list")
    assert told("tenants delete grace") == {}


def test_people_read_tables(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    made = run(environ, capsys, "keys create --tenant heidi --name ci")
    assert cli.main(["keys", "list", "--tenant", "heidi"], environ) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "tenant", "name", "enabled", "expires_at", "last_used_at"]
    assert row.split() == [made["id"], "heidi", "ci", "true", "-", "-"]
    assert cli.main(["keys", "show", made["id"]], environ) == 0
    assert "tenant         heidi" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "changed", "why"),
    [
        ("keys show 0000000000000000", {}, "404: No such key."),
        ("keys list", {"SPILLWAY_ADMIN_KEY": ""}, "SPILLWAY_ADMIN_KEY not set"),
        ("keys list", {"SPILLWAY_ADMIN_KEY": "wrong"}, "401: The admin key"),
        ("keys list", {"SPILLWAY_URL": "http://127.0.0.1:9"}, "the gateway does not answer: ConnectError"),
        ("keys create --tenant a --name b --declare", {"GATEWAY_KEY_PEPPER": ""}, "GATEWAY_KEY_PEPPER not set"),
    ],
)
def test_a_failure_is_one_line(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], line: str, changed: dict[str, str], why: str
) -> None:
    assert cli.main(line.split(), environ | changed) == 1
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
        cli.main(["keys", "create", "--tenant", "ivan", "--name", "ci", "--models", "sim-small", "--declare"], environ)
        == 0
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
            assert admin.put("/admin/tenants/ivan", json={}).json()["error"]["code"] == "declared_in_file"
        other = generate_key("live")
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{other.text}\n"))
        assert cli.main(["keys", "hash", "--tenant", "judy", "--name", "ci"], environ) == 0
        path.write_text(json.dumps({"keys": [json.loads(capsys.readouterr().out)]}))
        assert eventually(lambda: status_of(started, other.text) == 200 and status_of(started, key) == 401)
    assert set(read(path).keys) == {other.kid}
