"""One rule for what a token is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simulator import tokens


@given(st.text())
def test_pieces_join_to_the_text_they_were_cut_from(text: str) -> None:
    if tokens.count(text):
        assert "".join(tokens.pieces(text)) == text


@given(st.text())
def test_there_are_as_many_pieces_as_tokens_are_counted(text: str) -> None:
    assert len(tokens.pieces(text)) == tokens.count(text)


def test_every_value_of_a_byte_has_a_word_of_one_token() -> None:
    assert len(set(tokens.WORDS)) == 256
    assert all(tokens.pieces(word) == [word] for word in tokens.WORDS)
