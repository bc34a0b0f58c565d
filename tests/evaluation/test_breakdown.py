"""What is hard: kinds of token, documents, groups."""

import numpy as np
import pytest

from tests.tiny import VOCAB_SIZE, random_text
from toygpt.evaluation.breakdown import (
    MIN_RANKED_TOKENS,
    Losses,
    Part,
    break_down,
    kind_of,
    ranked,
)

BYTES = [b"", b"a", b" b", b"12", "é".encode()[:1], b"c", b"\n  ", b".."]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "end of a document"),
        (" the", "letters after a space"),
        ("ing", "letters, no space before"),
        ("\u4e2d\u6587", "letters, no space before"),
        (" \u0627\u0644", "letters after a space"),
        ("1984", "digits"),
        (" \u0663", "digits"),
        (" ==", "punctuation"),
        ("\u3002", "punctuation"),
        ("\n\n   ", "spaces and newlines"),
    ],
)
def test_a_kind_of_token_fits_any_language(text: str, kind: str) -> None:
    assert kind_of(text.encode()) == kind


def test_half_a_character_is_a_kind_of_its_own() -> None:
    assert kind_of("\u4e2d".encode()[1:]) == "part of a character"


def test_kinds_documents_and_groups_are_what_a_loop_over_the_tokens_finds() -> None:
    random = np.random.default_rng(1)
    tokens = random_text(500) % (len(BYTES) - 1)  # no punctuation
    model, bigram = random.random((2, 500)).astype(np.float32)
    document_of = np.cumsum(np.append(0, tokens[:-1] == 0))
    names = [(f"document {n}", f"group {n % 3}") for n in range(document_of[-1] + 1)]

    kinds, documents, groups = break_down(
        Losses(tokens, model, bigram), names, BYTES, end_of_text_id=0
    )

    assert [text.name for text in documents] == [name for name, _ in names]
    sizes = np.array([len(BYTES[token]) for token in tokens])
    for parts, labels, units in (
        (kinds, [kind_of(BYTES[token]) for token in tokens], np.ones(500)),
        (documents, [f"document {n}" for n in document_of], sizes),
        (groups, [f"group {n % 3}" for n in document_of], sizes),
    ):
        assert sorted(part.name for part in parts) == sorted(set(labels))
        for part in parts:
            own = np.array(labels) == part.name
            per = max(1, units[own].sum())
            assert part.tokens == own.sum()
            assert part.bits == pytest.approx(model[own].sum() / per)
            assert part.bigram_bits == pytest.approx(bigram[own].sum() / per)
    hardness = [kind.bits for kind in kinds]
    assert hardness == sorted(hardness, reverse=True)


def test_a_name_cannot_turn_or_hide_the_text_around_it() -> None:
    zeros = np.zeros(3, np.float32)

    _, [document], [group] = break_down(
        Losses(random_text(3), zeros, zeros),
        [("a\u202eb c\n", "\u200b")],
        [b"x"] * VOCAB_SIZE,
        end_of_text_id=VOCAB_SIZE,
    )

    assert (document.name, group.name) == (r"a\u202eb c\n", r"\u200b")


def test_the_hardest_text_comes_first_and_a_short_one_is_left_out() -> None:
    texts = [
        Part("short", MIN_RANKED_TOKENS - 1, 9.0, 1.0),
        Part("easy", MIN_RANKED_TOKENS, 1.0, 1.0),
        Part("hard", 500, 2.0, 1.0),
    ]

    assert [text.name for text in ranked(texts)] == ["hard", "easy"]
    assert [text.name for text in ranked(texts[:1])] == ["short"]
