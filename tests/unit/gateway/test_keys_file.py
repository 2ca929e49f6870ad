from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.key_reading import KeyReader
from gateway.access.keys import digest_of, generate_key
from gateway.access.keys_file import BadKeysFileError, Declared, DeclaredKeys, read

if TYPE_CHECKING:
    from pathlib import Path

KEY = generate_key("live")
ENTRY = {"id": KEY.kid, "digest": digest_of(KEY.text, "a-pepper"), "tenant": "acme", "name": "ci"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def written(path: Path, *keys: dict[str, Any], **further: Any) -> Path:
    path.write_text(json.dumps({"keys": list(keys), **further}))
    return path


def test_a_declared_key_is_a_record_with_all_that_an_administrator_may_say(path: Path) -> None:
    path.write_text(
        f"""
keys:
  - id: "{KEY.kid}"  # ci's
    digest: {ENTRY["digest"]}
    tenant: acme
    name: ci
    models: [sim-small]
    limits: {{requests_per_minute: 60}}
    expires_at: 2099-01-01T00:00:00+00:00
tenants:
  - tenant: acme
    limits: {{max_concurrency: 3}}
""".replace("2099-01-01T00:00:00+00:00", '"2099-01-01T00:00:00+00:00"')
    )
    declared = read(path)
    record = declared.keys[KEY.kid]
    assert (record.digest, record.models, record.expires_at) == (ENTRY["digest"], ("sim-small",), 4070908800.0)
    assert (record.limits.requests_per_minute, record.is_declared) == (60, True)
    assert (declared.tenants["acme"].limits.max_concurrency, declared.tenants["acme"].is_declared) == (3, True)


@pytest.mark.parametrize("text", ["", "{}", "keys: []", "# nothing yet"])
def test_a_file_may_declare_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    assert read(path) == Declared()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("keys: [", "line"),
        ("- a", "dict"),
        ("keys: [{id: x}]", "keys.0."),
        ("kees: []", "kees"),
        (json.dumps({"keys": [ENTRY | {"key": KEY.text}]}), "keys.0.key"),
        (json.dumps({"keys": [ENTRY | {"digest": "short"}]}), "keys.0.digest"),
        (json.dumps({"keys": [ENTRY | {"limits": {"requests_per_minute": 0}}]}), "requests_per_minute"),
        (json.dumps({"keys": [ENTRY, ENTRY]}), "twice"),
        (json.dumps({"keys": [ENTRY]})[:-1] + ', "keys": []}', "twice"),
        ("keys: &a []\ntenants: *a", "aliases"),
        ("keys: !!python/object/apply:os.system ['true']", "line 1"),
        ("\x00", "neither"),
    ],
)
def test_a_bad_file_is_refused_by_its_place_and_no_digest_is_repeated(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(BadKeysFileError, match=why) as refused:
        read(path)
    assert str(ENTRY["digest"]) not in str(refused.value)
    assert KEY.text not in str(refused.value)


def test_without_a_last_good_version_a_bad_file_stops_the_start(path: Path) -> None:
    with pytest.raises(BadKeysFileError, match="No such file"):
        DeclaredKeys(path)


def test_a_bad_version_is_refused_and_the_last_good_one_stays(path: Path) -> None:
    declared = DeclaredKeys(written(path, ENTRY))
    assert not declared.refresh(), "nothing changed"
    path.write_text("keys: [")
    assert not declared.refresh()
    assert set(declared.now.keys) == {KEY.kid}
    path.unlink()
    assert not declared.refresh()
    assert set(declared.now.keys) == {KEY.kid}
    written(path)
    assert declared.refresh()
    assert declared.now == Declared()


def test_a_file_that_is_swapped_by_its_link_is_read_again(tmp_path: Path) -> None:
    link = tmp_path / "keys.yaml"
    link.symlink_to(written(tmp_path / "one", ENTRY))
    declared = DeclaredKeys(link)
    swapped = tmp_path / "link"
    swapped.symlink_to(written(tmp_path / "two"))
    swapped.replace(link)
    assert declared.refresh()


async def test_a_key_that_is_declared_with_its_tenant_needs_no_store(path: Path) -> None:
    nothing: Any = None  # it would fail on the first touch
    reader = KeyReader(nothing, DeclaredKeys(written(path, ENTRY, tenants=[{"tenant": "acme", "enabled": False}])))
    known = await reader.one(KEY.kid)
    assert known is not None
    assert (known.key.name, known.is_live(0)) == ("ci", False)
