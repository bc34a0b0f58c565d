"""Excerpts of three texts, token by token."""

import numpy as np
import pytest

from tests.tiny import random_text
from toygpt.evaluation.breakdown import Losses, Part
from toygpt.evaluation.excerpts import EXCERPT_TOKENS, excerpts_of
from toygpt.pages.labels import characters_of, label_of

# Some tokens are halves of characters.
PIECES = [b"<|endoftext|>", "é".encode()[:1], "é".encode()[1:], *([b" a"] * 58)]


def first_choices(place: slice) -> list[tuple[int, float]]:
    """Return choices that give away their places."""
    return [(place_ % 61, place_ / 1000) for place_ in range(place.start, place.stop)]


def test_an_excerpt_is_the_middle_of_its_document() -> None:
    """Each row is a token, or the tokens of a character together."""
    tokens = random_text(1000)
    tokens[100:102] = 1, 2  # a whole character
    bits = np.random.default_rng(1).random((2, 1000)).astype(np.float32)
    texts = [
        Part("easy", 250, 1.0, 1.0),
        Part("middling", 333, 2.0, 1.0),
        Part("hard", 417, 3.0, 1.0),
    ]

    excerpts = [*excerpts_of(texts, Losses(tokens, *bits), first_choices, PIECES)]

    assert [each["title"] for each in excerpts] == [
        "easiest",
        "in the middle",
        "hardest",
    ]
    assert [each["text"] for each in excerpts] == texts
    assert [each["first"] for each in excerpts] == [46, 87, 129]
    for start, excerpt in zip([0, 250, 583], excerpts, strict=True):
        place = start + excerpt["first"] - 1
        pieces = [PIECES[token] for token in tokens[place : place + EXCERPT_TOKENS]]
        groups = list(characters_of(pieces))
        for (count, text), row in zip(groups, excerpt["tokens"], strict=True):
            own, others = (
                pytest.approx(each[place : place + count].sum()) for each in bits
            )
            label = label_of(
                b"".join(PIECES[it] for it in tokens[place : place + count])
            )
            guess = label_of(PIECES[place % 61])
            assert row == (text, label, own, others, guess, place / 1000)
            place += count
    assert any(row[1] == "é" for row in excerpts[0]["tokens"])


@pytest.mark.parametrize(
    ("num", "titles"), [(1, ["hardest"]), (2, ["easiest", "hardest"])]
)
def test_of_fewer_documents_each_comes_once_and_whole(
    num: int, titles: list[str]
) -> None:
    zeros = np.zeros(10 * num, np.float32)
    documents = [Part(f"{n}", 10, float(n), 1.0) for n in range(num)]
    losses = Losses(random_text(10 * num), zeros, zeros)

    excerpts = list(excerpts_of(documents, losses, first_choices, PIECES))

    assert [each["title"] for each in excerpts] == titles
    assert [len(each["tokens"]) for each in excerpts] == [10] * num
