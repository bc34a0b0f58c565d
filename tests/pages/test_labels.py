"""A reader sees every token: none is invisible, broken, or turns the text around it."""

import doctest
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toygpt.data.tokenizer import END_OF_TEXT, train_tokenizer
from toygpt.pages import labels
from toygpt.pages.labels import characters_of, label_of, pieces_of


def test_the_examples_are_true() -> None:
    result = doctest.testmod(labels)

    assert result.attempted == 2
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" the", "␣the"),
        ("\n\t", "⏎⇥"),
        ("\n       ", "⏎␣×7"),  # noqa: RUF001
        ("naïve", "naïve"),
        ("\u202e", r"\u202e"),
        ("\u200b", r"\u200b"),
        ("\0", r"\x00"),
    ],
)
def test_a_label_shows_what_is_invisible(text: str, label: str) -> None:
    assert label_of(text.encode()) == label


def test_half_a_character_is_shown_by_its_bytes() -> None:
    assert label_of("ï".encode()[:1]) == r"\xc3"
    assert label_of("ï".encode()[1:]) == r"\xaf"


@given(st.binary(min_size=1))
def test_a_label_is_never_empty_and_always_visible(piece: bytes) -> None:
    label = label_of(piece)

    assert label.isprintable()
    assert label.strip()


@given(st.text(), st.data())
def test_characters_are_whole_again_wherever_the_tokens_cut_them(
    text: str, data: st.DataObject
) -> None:
    whole = text.encode(errors="ignore")
    cuts = data.draw(st.sets(st.integers(1, max(1, len(whole)))))
    edges = sorted({0, *cuts, len(whole)} & set(range(len(whole) + 1)))
    pieces = [whole[a:b] for a, b in pairwise(edges)]

    groups = list(characters_of(pieces))

    shown = "".join(
        c if c.isprintable() or c in "\n\t\u200c\u200d" else ascii(c)[1:-1]
        for c in whole.decode()
    )
    assert "".join(text for _, text in groups) == shown
    assert sum(count for count, _ in groups) == len(pieces)


def test_bytes_that_are_no_longer_a_character_do_not_swallow_the_text_after() -> None:
    assert list(characters_of([b"\xe9", b"a", b"\xe9"])) == [
        (2, r"\xe9a"),
        (1, r"\xe9"),
    ]


def test_a_special_token_is_shown_by_its_name() -> None:
    tokenizer = train_tokenizer([["low low"]], vocab_size=259)

    pieces = pieces_of(tokenizer)

    assert pieces[0] == END_OF_TEXT.encode()
    assert b"low" in pieces
