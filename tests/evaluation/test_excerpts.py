"""Excerpts of three texts: each token as `evaluate` predicted it."""

import math
from typing import Any

import numpy as np
import pytest

from tests.tiny import VOCAB_SIZE, lively_model, random_text
from toygpt.evaluation.breakdown import Losses, Text
from toygpt.evaluation.excerpts import EXCERPT_TOKENS, excerpts_of
from toygpt.evaluation.test_loss import evaluate
from toygpt.pages.labels import characters_of

LN2 = math.log(2)
# Some tokens are halves of characters.
PIECES = [b"<|endoftext|>", "é".encode()[:1], "é".encode()[1:], *([b"a"] * 58)]


@pytest.mark.parametrize("overlap_fraction", [0.1, 0.3, 0.5])
def test_an_excerpt_has_the_numbers_of_the_evaluation(overlap_fraction: float) -> None:
    """From the first window, from a later one, and up to the end of the text."""
    how: dict[str, Any] = {"overlap_fraction": overlap_fraction, "end_of_text_id": 0}
    model, tokens = lively_model(), random_text(1000)
    tokens[100:102] = 1, 2  # a whole character
    nats = evaluate(model, tokens, batch_size=3, **how).token_losses
    bigram = np.random.default_rng(1).random(1000).astype(np.float32)
    texts = [
        Text("easy", "", 250, 100, 1.0, 1.0),
        Text("middling", "", 333, 100, 2.0, 1.0),
        Text("hard", "", 417, 100, 3.0, 1.0),
    ]

    excerpts = excerpts_of(texts, Losses(tokens, nats, bigram), model, PIECES, **how)

    assert [(each["title"], each["name"]) for each in excerpts] == [
        ("easiest", "easy"),
        ("in the middle", "middling"),
        ("hardest", "hard"),
    ]
    for start, excerpt in zip([0, 250, 583], excerpts, strict=True):
        first = start + excerpt["first"] - 1
        pieces = [PIECES[token] for token in tokens[first : first + EXCERPT_TOKENS]]
        groups = list(characters_of(pieces))
        assert [row[0] for row in excerpt["tokens"]] == [shown for _, shown in groups]
        for (count, _), row in zip(groups, excerpt["tokens"], strict=True):
            expected = [each[first : first + count].sum() for each in (nats, bigram)]
            assert row[2:4] == pytest.approx(np.array(expected) / LN2, rel=1e-3)
            first += count
    assert any(row[1] == "é" for each in excerpts for row in each["tokens"])


@pytest.mark.parametrize(
    ("num", "titles"), [(1, ["hardest"]), (2, ["easiest", "hardest"])]
)
def test_the_first_choice_is_shown_with_its_probability(
    num: int, titles: list[str]
) -> None:
    """The model is certain of one token everywhere; no document comes twice."""
    model = lively_model()
    model.to_logits.bias.data[7] = 1000.0
    pieces = [b" %c" % (65 + number % 26) for number in range(VOCAB_SIZE)]
    tokens = np.full(10 * num, 7, dtype=np.uint16)
    zeros = np.zeros(len(tokens), np.float32)
    documents = [Text(f"{n}", "", 10, 10, float(n), 1.0) for n in range(num)]

    excerpts = excerpts_of(
        documents,
        Losses(tokens, zeros, zeros),
        model,
        pieces,
        overlap_fraction=0.5,
        end_of_text_id=0,
    )

    assert [each["title"] for each in excerpts] == titles
    for each in excerpts:
        assert each["tokens"] == [(" H", "␣H", 0.0, 0.0, "␣H", 1.0)] * 10
