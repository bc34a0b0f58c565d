"""What is hard: kinds of token, documents, groups."""

import math

import numpy as np
import pytest

from tests.tiny import VOCAB_SIZE, random_text
from toygpt.evaluation import breakdown
from toygpt.evaluation.breakdown import (
    Losses,
    Text,
    groups_of,
    kind_of,
    kinds_and_documents,
    ranked,
)

LN2 = math.log(2)
BYTES = [b"", b"a", b" b", b"12", "é".encode()[:1], b"c", b"..", b"\n  "]


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


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_kinds_documents_and_groups_are_what_a_loop_over_the_tokens_finds(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(breakdown, "TOKENS_AT_ONCE", at_once)
    random = np.random.default_rng(1)
    tokens = random_text(500) % len(BYTES)
    model, bigram = random.random((2, 500)).astype(np.float32)
    document_of = np.cumsum(np.append(0, tokens[:-1] == 0))
    names = [(f"document {n}", f"group {n % 3}") for n in range(document_of[-1] + 1)]

    kinds, documents = kinds_and_documents(
        Losses(tokens, model, bigram), names, BYTES, end_of_text_id=0
    )
    groups = groups_of(documents)

    assert [(text.name, text.group) for text in documents] == names
    kind_of_token = [kind_of(BYTES[token]) for token in tokens]
    group_of = [f"group {n % 3}" for n in document_of]
    for texts, labels in (
        (kinds, kind_of_token),
        (documents, [f"document {n}" for n in document_of]),
        (groups, group_of),
    ):
        assert {text.name for text in texts} == set(labels)
        for text in texts:
            own = np.array(labels) == text.name
            assert text.tokens == own.sum()
            assert text.bytes == sum(len(BYTES[token]) for token in tokens[own])
            assert text.bits == pytest.approx(model[own].sum() / LN2)
            assert text.bigram_bits == pytest.approx(bigram[own].sum() / LN2)
    hardness = [kind.bits / kind.tokens for kind in kinds]
    assert hardness == sorted(hardness, reverse=True)


def test_a_name_cannot_turn_or_hide_the_text_around_it() -> None:
    zeros = np.zeros(3, np.float32)

    _, documents = kinds_and_documents(
        Losses(random_text(3), zeros, zeros),
        [("a\u202eb c\n", "\u200b")],
        [b"x"] * VOCAB_SIZE,
        end_of_text_id=VOCAB_SIZE,
    )

    assert documents[0][:2] == (r"a\u202eb c\n", r"\u200b")


def test_the_hardest_text_comes_first_and_a_short_one_is_left_out() -> None:
    texts = [
        Text("short", "", 10, 20, 900.0, 1.0),
        Text("easy", "", 390, 800, 600.0, 1.0),
        Text("hard", "", 500, 900, 1500.0, 1.0),
    ]

    assert [text.name for text in ranked(texts)] == ["hard", "easy"]
    assert [text.name for text in ranked(texts[:1])] == ["short"]
