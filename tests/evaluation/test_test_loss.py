"""How well a model predicts a text, and how sure that number is."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.tiny import BLOCK_SIZE, lively_model, random_text
from toygpt.data.token_files import JoinedTokens, TokenIds
from toygpt.evaluation.test_loss import (
    PROBABILITY_STEPS,
    Evaluation,
    bits_per_byte_standard_error,
    evaluate,
    first_choices,
)
from toygpt.model.gpt import GPT

END_OF_TEXT = 0


evaluation_of = partial(
    evaluate, batch_size=3, overlap_fraction=0.5, end_of_text_id=END_OF_TEXT
)


def token_by_token(model: GPT, tokens: TokenIds, *, num_new: int) -> Tensor:
    """Return the log-probabilities at each place: the simplest way."""
    rows = []
    for place in range(len(tokens)):
        start = 0
        while place >= start + BLOCK_SIZE:
            start += num_new
        before = int(tokens[start - 1]) if start else END_OF_TEXT
        past = torch.tensor([[before, *tokens[start:place].tolist()]])
        with torch.inference_mode():
            rows.append(model(past)[0, -1].log_softmax(dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("overlap_fraction", "num_new"), [(0.0, 16), (0.25, 12), (0.5, 8), (0.99, 1)]
)
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 32, 33])
def test_sliding_windows_equal_a_token_by_token_loop(
    num_tokens: int, overlap_fraction: float, num_new: int
) -> None:
    """The end of a document is predicted like any other token, and so is a shard's."""
    model = lively_model()
    tokens = random_text(num_tokens)
    tokens[num_tokens // 2] = END_OF_TEXT
    shards = JoinedTokens(np.split(tokens, [num_tokens // 3]))

    evaluation = evaluation_of(model, shards, overlap_fraction=overlap_fraction)

    expected = token_by_token(model, tokens, num_new=num_new)
    ids = torch.from_numpy(tokens.astype(np.int64))
    losses = -expected.gather(-1, ids[:, None])[:, 0]
    assert evaluation.token_losses == pytest.approx(losses.numpy(), rel=1e-4, abs=1e-5)
    assert evaluation.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    guessed = expected.argmax(dim=-1) == ids
    assert evaluation.accuracy == pytest.approx(guessed.float().mean().item())


@pytest.mark.parametrize(
    ("overlap_fraction", "num_new"), [(0.0, 16), (0.3, 11), (0.5, 8)]
)
@pytest.mark.parametrize("place", [slice(0, 5), slice(20, 21), slice(37, 60)])
def test_first_choices_are_those_of_the_evaluation(
    place: slice, overlap_fraction: float, num_new: int
) -> None:
    """From the first window, from a later one, and up to the end of the text."""
    model, tokens = lively_model(), random_text(60)

    found = first_choices(
        model,
        tokens,
        place,
        overlap_fraction=overlap_fraction,
        end_of_text_id=END_OF_TEXT,
    )

    expected = token_by_token(model, tokens, num_new=num_new)[place].exp().max(dim=-1)
    assert [choice for choice, _ in found] == expected.indices.tolist()
    assert [share for _, share in found] == pytest.approx(
        expected.values.tolist(), rel=1e-4
    )


def test_accuracy_is_the_share_of_first_choices_that_came() -> None:
    model = lively_model()
    with torch.no_grad():
        model.to_logits.bias[7] = 1000.0  # so that it is the first choice everywhere
    tokens = np.full(40, 7, dtype=np.uint16)
    tokens[::4] = 8

    assert evaluation_of(model, tokens).accuracy == 0.75


def test_first_choices_are_counted_by_their_probability() -> None:
    """Without overlap the windows are sequences: the simplest way is to read each."""
    model, tokens = lively_model(), random_text(5 * BLOCK_SIZE)
    expected = np.zeros((2, PROBABILITY_STEPS + 1), dtype=np.int64)
    for start in range(0, len(tokens), BLOCK_SIZE):
        window = tokens[start : start + BLOCK_SIZE].tolist()
        before = int(tokens[start - 1]) if start else END_OF_TEXT
        with torch.inference_mode():
            probabilities = model(torch.tensor([[before, *window[:-1]]]))[0].softmax(-1)
        for row, token in zip(probabilities, window, strict=True):
            step = round(row.max().item() * PROBABILITY_STEPS)
            expected[int(row.argmax() == token), step] += 1

    choices = evaluation_of(model, tokens, overlap_fraction=0.0).choices

    assert choices.sum() == len(tokens)
    assert choices[1].sum() == expected[1].sum() > 0
    # A probability at the edge of two steps may be rounded either way.
    assert np.abs((choices - expected).cumsum(axis=1)).max() <= 1


def test_perplexity_and_bits_per_byte_follow_from_the_loss() -> None:
    """Ten tokens of three bits each spell a text of 15 bytes."""
    evaluation = Evaluation(
        3 * math.log(2), 0.5, np.zeros(10, np.float32), np.zeros((2, 1), np.int64)
    )

    assert evaluation.perplexity == pytest.approx(8)
    assert evaluation.bits_per_byte(15) == pytest.approx(2.0)


BYTES_OF_TOKEN = np.array([0, 1, 2, 3])


def sample_of_documents(
    random: np.random.Generator, num_documents: int
) -> tuple[NDArray[np.float32], TokenIds]:
    """Return losses and tokens of documents of many lengths and difficulties."""
    losses, tokens = [], []
    for length in random.geometric(1 / 40, size=num_documents):
        hardness = random.gamma(4, 1)
        tokens += [*random.integers(1, 4, size=length), END_OF_TEXT]
        losses += [*random.exponential(hardness, size=length), 0.1]
    return np.array(losses, np.float32), np.array(tokens, np.uint16)


standard_error_of = partial(
    bits_per_byte_standard_error,
    bytes_of_token=BYTES_OF_TOKEN,
    end_of_text_id=END_OF_TEXT,
)


def test_the_standard_error_is_how_much_other_documents_would_change() -> None:
    """Two hundred test splits are drawn: how far their numbers spread is known."""
    random = np.random.default_rng(0)
    numbers, errors = [], []
    for _ in range(200):
        losses, tokens = sample_of_documents(random, 60)
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
