from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.keys import ApiKey, generate_key
from gateway.access.records import record_for

PEPPER = "a-pepper-kept-elsewhere"
KEY = generate_key("live")


def with_checksum(body: str) -> str:
    return f"{body}{zlib.crc32(body.encode()):08x}"


def test_a_generated_key_is_one_and_says_which_record_is_its() -> None:
    assert ApiKey.parse(KEY.text) == KEY
    assert KEY.text.startswith(f"sw_live_{KEY.kid}_")


def test_no_two_keys_share_an_id_or_a_secret() -> None:
    keys = [generate_key("live") for _ in range(100)]
    assert len({key.kid for key in keys}) == len({key.text[25:] for key in keys}) == 100


def test_a_key_with_one_character_mistyped_is_none() -> None:
    for place, character in enumerate(KEY.text):
        for other in "0a_":
            if other != character:
                assert ApiKey.parse(KEY.text[:place] + other + KEY.text[place + 1 :]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sw_live",
        KEY.text + "0",
        KEY.text[:-1],
        f" {KEY.text}",
        f"{KEY.text}\n",
        KEY.text.upper(),
        KEY.text * 10_000,
        "' OR '1'='1",
        "*",
        "sw_live_*",
        "\r\nSET x y",
        "\x00",
        "\u0665" * 110,
        with_checksum(f"sw_live_{'0' * 16}_{'0' * 63}"),
        with_checksum(f"sw_live_{'0' * 15}*_{'0' * 64}"),
        with_checksum(f"sw_LIVE_{'0' * 16}_{'0' * 64}"),
        with_checksum(f"sw__{'0' * 16}_{'0' * 64}"),
        with_checksum(f"sk_live_{'0' * 16}_{'0' * 64}"),
    ],
)
def test_what_does_not_have_the_shape_is_none(text: str) -> None:
    assert ApiKey.parse(text) is None


@given(st.text(max_size=200))
def test_any_text_can_be_asked_about(text: str) -> None:
    ApiKey.parse(text)


def test_the_secret_shows_in_no_representation() -> None:
    secret = KEY.text[25:]
    record = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="laptop")
    for shown in (repr(KEY), str(KEY), f"{KEY}", repr([KEY]), repr(record), record.to_json().decode()):
        assert secret not in shown
        assert KEY.text not in shown
