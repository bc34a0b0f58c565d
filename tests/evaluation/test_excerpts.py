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

HOW: dict[str, Any] = {"overlap_fraction": 0.5, "end_of_text_id": 0}
# Some tokens are halves of characters.
PIECES = [b"<|endoftext|>", "é".encode()[:1], "é".encode()[1:], *([b"a"] * 58)]


def test_an_excerpt_has_the_numbers_of_the_evaluation() -> None:
    """From the first window, from a later one, and up to the end of the text."""
    model, tokens = lively_model(), random_text(1000)
    tokens[100:102] = 1, 2  # a whole character
    evaluation = evaluate(model, tokens, batch_size=3, **HOW)
    bigram = np.random.default_rng(1).random(1000)
    losses = Losses(tokens, evaluation.token_losses, bigram, PIECES)
    texts = [
        Text("easy", "", 0, 250, 100, 1.0, 1.0),
        Text("middling", "", 250, 333, 100, 2.0, 1.0),
        Text("hard", "", 583, 417, 100, 3.0, 1.0),
    ]

    excerpts = excerpts_of(texts, losses, model, PIECES, **HOW)

    assert [each["title"] for each in excerpts] == [
        "easiest",
        "in the middle",
        "hardest",
    ]
    for text, excerpt in zip(texts, excerpts, strict=True):
        assert excerpt["name"] == text.name
        first = text.start + excerpt["first"] - 1
        pieces = [PIECES[token] for token in tokens[first : first + EXCERPT_TOKENS]]
        groups = list(characters_of(pieces))
        assert [row[0] for row in excerpt["tokens"]] == [shown for _, shown in groups]
        for (count, _), row in zip(groups, excerpt["tokens"], strict=True):
            own, other = evaluation.token_losses, bigram
            expected = (each[first : first + count].sum() for each in (own, other))
            bits = [nats / math.log(2) for nats in expected]
            assert row[1:3] == pytest.approx(bits, rel=1e-3)
            first += count
    assert any(row[0] == "é" for each in excerpts for row in each["tokens"])


def test_the_first_choice_is_shown_with_its_probability() -> None:
    """The model is certain of one token everywhere."""
    model = lively_model()
    model.to_logits.bias.data[7] = 1000.0
    pieces = [bytes([65 + number % 26]) for number in range(VOCAB_SIZE)]
    tokens = np.full(30, 7, dtype=np.uint16)
    losses = Losses(tokens, np.zeros(30, np.float32), np.zeros(30), pieces)

    *_, excerpt = excerpts_of(
        [Text("short", "", 20, 10, 10, 1.0, 1.0)], losses, model, pieces, **HOW
    )

    assert excerpt["tokens"] == [("H", 0.0, 0.0, "H", 1.0)] * 10
