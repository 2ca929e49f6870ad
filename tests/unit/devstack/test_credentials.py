from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from devstack import credentials, env_file
from gateway.access.keys import ApiKey

if TYPE_CHECKING:
    from pathlib import Path


def test_secrets_are_made_once_and_kept_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"

    first = credentials.load(path)

    assert credentials.load(path) == first
    assert len(set(first.values())) == len(first)
    assert min(map(len, first.values())) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_checkouts_share_no_secret(tmp_path: Path) -> None:
    one, other = credentials.load(tmp_path / "one.env"), credentials.load(tmp_path / "other.env")

    assert not set(one.values()) & set(other.values())


def test_the_development_key_is_one_that_the_gateway_accepts(tmp_path: Path) -> None:
    key = credentials.load(tmp_path / "secrets.env")[credentials.DEVELOPMENT_KEY]

    assert key.startswith("sw_dev_")
    assert ApiKey.parse(key)


def test_a_secret_that_a_later_version_needs_is_added_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    before = credentials.load(path)
    env_file.write(path, {name: value for name, value in before.items() if name != "GATEWAY_ADMIN_KEY"}, about="old")

    after = credentials.load(path)

    assert after["GATEWAY_ADMIN_KEY"] != before["GATEWAY_ADMIN_KEY"]
    assert after | {"GATEWAY_ADMIN_KEY": before["GATEWAY_ADMIN_KEY"]} == before
