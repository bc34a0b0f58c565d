"""How well a model predicts, beside what simpler means reach."""

import lzma
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.tiny import (
    BLOCK_SIZE,
    VOCAB_SIZE,
    lively_model,
    predictable_text,
    random_text,
)
from toygpt.data.token_files import TokenIds
from toygpt.evaluation import test_loss as evaluation
from toygpt.evaluation.test_loss import (
    Judgement,
    bigram_loss,
    bits_per_byte_standard_error,
    judge,
    xz_bits_per_byte,
)
from toygpt.model.gpt import GPT

END_OF_TEXT = 0


def model_that_ignores_the_context(num_tokens: int) -> GPT:
    """Return a model for which each token always has the same probability."""
    model = lively_model(vocab_size=num_tokens)
    nn.init.zeros_(model.token_embedding.weight)
    nn.init.normal_(model.to_logits.bias)
    return model


def judge_one_by_one(
    model: GPT, tokens: TokenIds, *, num_new: int
) -> tuple[Tensor, Tensor]:
    """Return each token's loss, and whether it was guessed; slowly, and to be read."""
    losses, guessed = [], []
    for place, token in enumerate(tokens.tolist()):
        start = 0
        while place >= start + BLOCK_SIZE:
            start += num_new
        before = int(tokens[start - 1]) if start else END_OF_TEXT
        past = torch.tensor([[before, *tokens[start:place].tolist()]])
        log_probabilities = model(past)[0, -1].log_softmax(dim=-1)
        losses.append(-log_probabilities[token])
        guessed.append(log_probabilities.argmax() == token)
    return torch.stack(losses), torch.stack(guessed)


@pytest.mark.parametrize("overlap_fraction", [0.0, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("num_tokens", [1, 5, 15, 16, 17, 24, 32, 33, 70])
def test_every_token_is_predicted_exactly_once(
    num_tokens: int, overlap_fraction: float
) -> None:
    """No token comes twice, each has its own probability: the mean tells them all."""
    tokens = np.random.default_rng(0).permutation(num_tokens).astype(np.uint16)
    model = model_that_ignores_the_context(num_tokens)

    judgement = judge(
        model,
        tokens,
        batch_size=2,
        overlap_fraction=overlap_fraction,
        end_of_text_id=END_OF_TEXT,
    )

    expected = -model.to_logits.bias.log_softmax(dim=-1).mean()
    assert judgement.num_tokens == num_tokens
    assert judgement.loss == pytest.approx(expected.item(), rel=1e-5)
    assert judgement.accuracy == pytest.approx(1 / num_tokens)


@pytest.mark.parametrize(
    ("overlap_fraction", "num_new"), [(0.0, 16), (0.5, 8), (0.75, 4), (0.99, 1)]
)
@pytest.mark.parametrize("num_tokens", [3, 16, 41])
def test_sliding_windows_equal_a_token_by_token_loop(
    num_tokens: int, overlap_fraction: float, num_new: int
) -> None:
    model = lively_model()
    tokens = random_text(num_tokens)

    judgement = judge(
        model,
        tokens,
        batch_size=3,
        overlap_fraction=overlap_fraction,
        end_of_text_id=END_OF_TEXT,
    )

    losses, guessed = judge_one_by_one(model, tokens, num_new=num_new)
    assert judgement.token_losses == pytest.approx(
        losses.detach().numpy(), rel=1e-4, abs=1e-5
    )
    assert judgement.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert judgement.accuracy == pytest.approx(guessed.float().mean().item())


def test_the_end_of_text_is_predicted_like_any_token() -> None:
    tokens = np.array([5, END_OF_TEXT, 7, END_OF_TEXT], dtype=np.uint16)
    model = model_that_ignores_the_context(VOCAB_SIZE)

    judgement = judge(
        model, tokens, batch_size=4, overlap_fraction=0.5, end_of_text_id=END_OF_TEXT
    )

    probabilities = model.to_logits.bias.softmax(dim=-1)
    expected = -probabilities[[5, END_OF_TEXT, 7, END_OF_TEXT]].log().mean()
    assert judgement.loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    model = lively_model()
    tokens = random_text(100)

    one, other = (
        judge(
            model,
            tokens,
            batch_size=size,
            overlap_fraction=0.5,
            end_of_text_id=END_OF_TEXT,
        )
        for size in (5, batch_size)
    )

    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.accuracy == other.accuracy


def test_accuracy_is_the_share_of_first_choices_that_came() -> None:
    model = model_that_ignores_the_context(VOCAB_SIZE)
    favourite = int(model.to_logits.bias.argmax())
    tokens = np.full(40, favourite, dtype=np.uint16)
    tokens[::4] = (favourite + 1) % VOCAB_SIZE

    judgement = judge(
        model, tokens, batch_size=4, overlap_fraction=0.5, end_of_text_id=END_OF_TEXT
    )

    assert judgement.accuracy == 0.75


def test_perplexity_is_the_number_of_equally_likely_choices() -> None:
    judgement = Judgement(
        math.log(50), accuracy=0.02, token_losses=np.zeros(7, np.float32)
    )

    assert judgement.perplexity == pytest.approx(50)


def test_bits_per_byte_are_the_bits_of_all_tokens_shared_by_all_bytes() -> None:
    """Ten tokens of three bits each spell a text of 15 bytes."""
    judgement = Judgement(
        3 * math.log(2), accuracy=0.5, token_losses=np.zeros(10, np.float32)
    )

    assert judgement.bits_per_byte(15) == pytest.approx(2.0)


BYTES_OF_TOKEN = np.array([0, 1, 2, 3])


def sample_of_documents(
    random: np.random.Generator, num_documents: int
) -> tuple[NDArray[np.float32], TokenIds]:
    """Return losses and tokens of documents of many lengths, each as hard as it is."""
    losses, tokens = [], []
    for length in random.geometric(1 / 40, size=num_documents):
        hardness = random.gamma(4, 1)
        tokens += [*random.integers(1, 4, size=length), END_OF_TEXT]
        losses += [*random.exponential(hardness, size=length), 0.1]
    return np.array(losses, np.float32), np.array(tokens, np.uint16)


def standard_error_of(losses: NDArray[np.float32], tokens: TokenIds) -> float:
    return bits_per_byte_standard_error(
        losses, tokens, bytes_of_token=BYTES_OF_TOKEN, end_of_text_id=END_OF_TEXT
    )


def test_the_standard_error_is_how_much_other_documents_would_change() -> None:
    """Three hundred test splits are drawn: how far their numbers spread is known."""
    random = np.random.default_rng(0)
    numbers, errors = [], []
    for _ in range(300):
        losses, tokens = sample_of_documents(random, 100)
        bits = losses.sum() / math.log(2)
        numbers.append(bits / BYTES_OF_TOKEN[tokens].sum())
        errors.append(standard_error_of(losses, tokens))

    assert np.mean(errors) == pytest.approx(np.std(numbers), rel=0.1)


def test_a_single_text_is_a_sample_of_its_blocks() -> None:
    """Without the ends of documents the same loss has about the same error."""
    random = np.random.default_rng(1)
    losses = random.exponential(2.0, size=30_000).astype(np.float32)
    tokens = random.integers(1, 4, size=30_000).astype(np.uint16)
    in_documents = tokens.copy()
    in_documents[99::100] = END_OF_TEXT
    mostly_one = tokens.copy()
    mostly_one[:4_000:100] = END_OF_TEXT

    error = standard_error_of(losses, tokens)

    assert error == pytest.approx(2 / math.log(2) / 2 / math.sqrt(30_000), rel=0.3)
    assert error == pytest.approx(standard_error_of(losses, in_documents), rel=0.3)
    assert error == pytest.approx(standard_error_of(losses, mostly_one), rel=0.05)


def test_a_text_of_two_tokens_has_a_standard_error() -> None:
    error = standard_error_of(
        np.array([1, 2], np.float32), np.array([3, END_OF_TEXT], np.uint16)
    )

    assert math.isfinite(error)


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

    weights = np.linspace(0.001, 0.999, 999)
    return loss(test, min(weights, key=lambda weight: loss(validation, weight)))


def test_a_bigram_that_never_saw_a_pair_counts_single_tokens() -> None:
    """Training saw 1 three times and 2 once; no pair of the other texts ever."""
    train = np.array([1, 1, 1, 2], dtype=np.uint16)
    validation = np.array([2, 2, 2, 2], dtype=np.uint16)
    test = np.array([2, 3], dtype=np.uint16)

    loss = bigram_loss(
        train, validation, test, vocab_size=6, end_of_text_id=END_OF_TEXT
    )

    two, three = (1 + 1) / (4 + 6), (0 + 1) / (4 + 6)
    assert loss == pytest.approx(-(math.log(two) + math.log(three)) / 2)


def test_a_bigram_that_knows_each_pair_is_certain() -> None:
    """0 1 2 0 1 2 ...: after each token only one can come."""
    text = np.tile(np.array([1, 2, 0], dtype=np.uint16), 1000)

    loss = bigram_loss(
        text, text[:300], text[:600], vocab_size=3, end_of_text_id=END_OF_TEXT
    )

    assert loss == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("noise", [0.1, 0.9])
def test_the_bigram_is_what_counting_by_hand_gives(noise: float) -> None:
    text = predictable_text(4000, seed=3)
    random = np.random.default_rng(4)
    is_noise = random.random(len(text)) < noise
    text[is_noise] = random.integers(VOCAB_SIZE, size=int(is_noise.sum()))
    train, validation, test = text[:3000], text[3000:3200], text[3200:]

    loss = bigram_loss(
        train, validation, test, vocab_size=VOCAB_SIZE, end_of_text_id=END_OF_TEXT
    )

    assert loss == pytest.approx(bigram_by_counting(train, validation, test), rel=1e-3)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_counting_piece_by_piece_loses_no_pair(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    train, validation, test = (predictable_text(100, seed=seed) for seed in (1, 2, 3))
    whole = bigram_loss(
        train, validation, test, vocab_size=VOCAB_SIZE, end_of_text_id=END_OF_TEXT
    )

    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", at_once)
    pieces = bigram_loss(
        train, validation, test, vocab_size=VOCAB_SIZE, end_of_text_id=END_OF_TEXT
    )

    assert pieces == whole


def test_a_large_vocabulary_does_not_overflow_the_bigram() -> None:
    """Pairs of uint16 tokens are numbered beyond what uint32 can hold."""
    vocab_size = 65_536
    text = np.tile(np.array([65_535, 65_534, 3], dtype=np.uint16), 500)

    loss = bigram_loss(
        text, text, text, vocab_size=vocab_size, end_of_text_id=END_OF_TEXT
    )

    assert loss < 0.02


def test_xz_needs_what_xz_itself_says() -> None:
    text = Path(__file__).read_bytes()
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    bytes_of_token = [bytes([byte]) for byte in range(256)]

    bits = xz_bits_per_byte(tokens, bytes_of_token)

    compressed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert bits == 8 * len(compressed) / len(text)
    assert 0 < bits <= 8


def test_xz_reads_the_text_that_the_tokens_spell() -> None:
    """Tokens of several bytes, and one of none, as <|endoftext|> is."""
    tokens = np.tile(np.array([1, 2, 0, 1], dtype=np.uint16), 100)

    bits = xz_bits_per_byte(tokens, [b"", b"def ", b"main(\xc3\xa9)"])

    text = ("def main(é)def " * 100).encode()
    compressed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert bits == 8 * len(compressed) / len(text)


def test_xz_compresses_a_long_text_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_text(500)
    bytes_of_token = [bytes([byte]) for byte in range(256)]
    whole = xz_bits_per_byte(tokens, bytes_of_token)

    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", 100)
    pieces = xz_bits_per_byte(tokens, bytes_of_token)

    assert pieces == whole
