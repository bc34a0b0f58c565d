"""What is hard: kinds of token, documents, groups."""

import math

import numpy as np
import pytest

from tests.tiny import random_text
from toygpt.evaluation import breakdown
from toygpt.evaluation.breakdown import (
    Losses,
    groups_of,
    kind_of,
    kinds_of_tokens,
    passages_of,
    ranked,
    texts_from,
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


def losses_of(num_tokens: int) -> Losses:
    """Return a text of documents of many lengths, and what its tokens cost."""
    random = np.random.default_rng(1)
    tokens = random_text(num_tokens) % len(BYTES)
    model = random.random(num_tokens).astype(np.float32)
    return Losses(tokens, model, random.random(num_tokens), BYTES)


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_kinds_are_what_a_loop_over_the_tokens_finds(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    losses = losses_of(500)
    monkeypatch.setattr(breakdown, "TOKENS_AT_ONCE", at_once)

    kinds = kinds_of_tokens(losses)

    of_token = [kind_of(BYTES[token]) for token in losses.tokens]
    for kind in kinds:
        own = np.array([name == kind.kind for name in of_token])
        assert kind.bits == pytest.approx(losses.model[own].mean() / LN2)
        assert kind.bigram_bits == pytest.approx(losses.bigram[own].mean() / LN2)
        assert kind.share == own.mean()
    assert {kind.kind for kind in kinds} == set(of_token)
    total = sum(kind.bits * kind.share for kind in kinds)
    assert total == pytest.approx(losses.model.mean() / LN2)


def test_documents_and_groups_add_up_to_the_whole_text() -> None:
    losses = losses_of(500)
    starts = np.append(0, np.flatnonzero(losses.tokens[:-1] == 0) + 1)
    names = [(f"document {n}", f"group {n % 3}") for n in range(len(starts))]

    documents = texts_from(starts, names, losses)
    groups = groups_of(documents)

    second = slice(starts[1], starts[2])
    num_bytes = sum(len(BYTES[token]) for token in losses.tokens[second])
    assert documents[1][:5] == (
        "document 1",
        "group 1",
        starts[1],
        starts[2] - starts[1],
        num_bytes,
    )
    assert documents[1].bits == pytest.approx(losses.model[second].sum() / LN2)
    assert [group.name for group in groups] == ["group 0", "group 1", "group 2"]
    for texts in (documents, groups, passages_of(documents, losses)):
        assert sum(text.tokens for text in texts) == 500
        assert sum(text.bits for text in texts) == pytest.approx(
            losses.model.sum() / LN2
        )


def test_the_hardest_text_comes_first_and_a_short_one_is_left_out() -> None:
    losses = losses_of(900)
    names = [("short", ""), ("easy", ""), ("hard", "")]
    losses.model[:10] = 9
    losses.model[10:400] = 1
    losses.model[400:] = 3

    texts = texts_from(np.array([0, 10, 400]), names, losses)

    assert [text.name for text in ranked(texts)] == ["hard", "easy"]
    assert [text.name for text in ranked(texts[:1])] == ["short"]
