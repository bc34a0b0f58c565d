"""What simpler means reach on the same text."""

import lzma
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tests.tiny import VOCAB_SIZE, predictable_text
from toygpt.data.token_files import JoinedTokens, TokenIds, Tokens
from toygpt.evaluation import baselines
from toygpt.evaluation.baselines import bigram_losses, xz_bits_per_byte

END_OF_TEXT = 0


def loss_of_bigram(*splits: Tokens, vocab_size: int = VOCAB_SIZE) -> float:
    """Return the loss of the bigram model on the last of three splits."""
    losses = bigram_losses(*splits, vocab_size=vocab_size, end_of_text_id=END_OF_TEXT)
    assert len(losses) == len(splits[2])
    return float(losses.mean())


def bigram_by_counting(train: TokenIds, validation: TokenIds, test: TokenIds) -> float:
    """Return the loss of the same bigram model, with λ found by trying many."""
    single = Counter(train.tolist())
    pairs = Counter(zip(train.tolist(), train[1:].tolist(), strict=False))

    def loss(text: TokenIds, weight: float) -> float:
        total, previous = 0.0, END_OF_TEXT
        for token in text.tolist():
            bigram = pairs[previous, token] / max(single[previous], 1)
            unigram = (single[token] + 1) / (len(train) + VOCAB_SIZE)
            total -= math.log(weight * bigram + (1 - weight) * unigram)
            previous = token
        return total / len(text)

    weights = np.linspace(0.005, 0.995, 199)
    return loss(test, min(weights, key=lambda weight: loss(validation, weight)))


@pytest.mark.parametrize("noise", [0.1, 0.9])
def test_the_bigram_is_what_counting_by_hand_gives(noise: float) -> None:
    text = predictable_text(4000, seed=3)
    random = np.random.default_rng(4)
    is_noise = random.random(len(text)) < noise
    text[is_noise] = random.integers(VOCAB_SIZE, size=int(is_noise.sum()))
    train, validation, test = text[:3000], text[3000:3200], text[3200:]

    loss = loss_of_bigram(train, validation, test)

    assert loss == pytest.approx(bigram_by_counting(train, validation, test), rel=1e-3)


def test_a_bigram_that_never_saw_a_pair_counts_single_tokens() -> None:
    """Training saw 1 three times and 2 once; no pair of the other texts ever."""
    train = np.array([1, 1, 1, 2], dtype=np.uint16)
    validation = np.array([2, 2, 2, 2], dtype=np.uint16)
    test = np.array([2, 3], dtype=np.uint16)

    loss = loss_of_bigram(train, validation, test, vocab_size=6)

    two, three = (1 + 1) / (4 + 6), (0 + 1) / (4 + 6)
    assert loss == pytest.approx(-(math.log(two) + math.log(three)) / 2)


def test_a_bigram_that_knows_each_pair_is_certain() -> None:
    """Pairs of large uint16 tokens are numbered beyond what uint32 can hold."""
    text = np.tile(np.array([65_535, 65_534, 0], dtype=np.uint16), 1000)

    loss = loss_of_bigram(text, text[:300], text[:600], vocab_size=65_536)

    assert loss == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_counting_piece_by_piece_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However small the pieces are, and in however many shards."""
    texts = [predictable_text(100, seed=seed) for seed in (1, 2, 3)]
    in_shards = [JoinedTokens(np.split(text, [30, 30, 77])) for text in texts]
    bytes_of_token = [bytes([byte]) for byte in range(VOCAB_SIZE)]

    def both(texts: Sequence[Tokens]) -> tuple[float, float]:
        return loss_of_bigram(*texts), xz_bits_per_byte(texts[0], bytes_of_token)

    whole = both(texts)
    monkeypatch.setattr(baselines, "TOKENS_AT_ONCE", at_once)

    assert both(texts) == both(in_shards) == whole


def test_the_bigram_counts_a_limited_part_of_the_training_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, validation, test = (predictable_text(100, seed=seed) for seed in (1, 2, 3))
    expected = loss_of_bigram(train[:60], validation, test)
    monkeypatch.setattr(baselines, "MAX_BIGRAM_TOKENS", 60)

    assert loss_of_bigram(train, validation, test) == expected


def test_xz_compresses_the_text_of_the_tokens() -> None:
    """Tokens of several bytes, and one of no bytes, as <|endoftext|> is."""
    tokens = np.tile(np.array([1, 2, 0, 1], dtype=np.uint16), 100)

    bits = xz_bits_per_byte(tokens, [b"", b"def ", "main(é)".encode()])

    text = ("def main(é)def " * 100).encode()
    compressed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert bits == 8 * len(compressed) / len(text)
